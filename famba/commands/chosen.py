"""What model, strategies and methods a command means: from its options, a checkpoint and an experiment."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from famba.commands.options import setting
from famba.config import ARCHITECTURES, Architecture, Experiment, Recipe
from famba.config.image_folder import ListedFolder
from famba.config.methods import code_of
from famba.config.settings import Fusion
from famba.config.validation import validated
from famba.errors import InputError
from famba.methods import names
from famba.model import VisionMamba
from famba.strategies import NAMED, beyond_cap, strategy
from famba.text import nearest
from famba.training.weights import Stored

NONE = "none"  # method of a schedule that removes no tokens
_PLACEMENT = "placement"  # where a method acts: told among its settings


@dataclass(frozen=True)
class Setting:
    """A strategy and a method: what is evaluated, and what is exported. `settings`: the method's, and its placement."""

    strategy: str
    schedule: tuple[int, ...]
    method: str = NONE
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a file is called: `upper-rmeeto-prune=True`."""
        words = [self.strategy, Path(self.method).name, *(f"{key}={value}" for key, value in self.settings.items())]
        return "-".join(re.sub(r"[^\w.=+-]+", "_", word) for word in words)

    def build(self, architecture: Architecture, classes: int, scan: str) -> VisionMamba:
        """The model. Raises InputError where the method cannot act in one of the layers."""
        by: dict[str, Any] = {}
        if self.method != NONE:
            own, placement = apart(self.settings)
            by = {"method": self.method, "settings": own, "placement": placement}
        return VisionMamba(**architecture.model_dump(), num_classes=classes, fusion=self.schedule, scan=scan, **by)


@dataclass(frozen=True)
class Chosen:
    """A model by its name, how its images are prepared, and strategies beyond the published ones with their methods."""

    name: str
    architecture: Architecture
    recipe: Recipe
    dataset: str | None
    fusion: Fusion  # of the published strategies
    own: Mapping[str, tuple[tuple[int, ...], Fusion]]
    folder: ListedFolder | None = None  # of `dataset`, if that is an image folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where the file does not say it, how its class token stands."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="weights.pt or row.json of a training here, an official Vim file, a state dict, safetensors",
    )
    parser.add_argument(
        "--model", metavar="NAME", help=f"{', '.join(ARCHITECTURES)}, or one of --config [the checkpoint's]"
    )
    parser.add_argument("--config", type=Path, metavar="EXPERIMENT", help="experiment file with models and schedules")
    parser.add_argument(
        "--weights", choices=["model", "ema"], default="model", help="the weights, or their moving average [model]"
    )
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="image size, if not the model's")
    parser.add_argument(
        "--cls-position", choices=["middle", "head"], help="position of the class token, if not the model's"
    )
    parser.add_argument(
        "--stored-cls-position",
        choices=["middle", "head"],
        help="position of the class token in the checkpoint, if that does not say [as in the model]",
    )
    parser.add_argument(
        "--budget",
        choices=["paper", "proportional"],
        help="tokens of the published strategies: the paper's numbers, or its share [the training's, else paper]",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting for every method that has it; may be given several times",
    )
    parser.add_argument("--scan", default="auto", metavar="BACKEND", help="backend of the selective scan [auto]")


def model_of(args: argparse.Namespace, stored: Stored) -> Chosen:
    """The model that the options name, else the checkpoint. Raises InputError where neither does."""
    chosen = _from_experiment(args, args.config) if args.config else _from_checkpoint(args, stored)
    changes = {"img_size": args.img_size, "cls_position": args.cls_position}
    changes = {key: value for key, value in changes.items() if value is not None}
    shape = validated(Architecture, chosen.architecture.model_dump() | changes, "the model")
    recipe = chosen.recipe
    if recipe.eval_resize is not None and shape.img_size != chosen.architecture.img_size:  # the same share is cut off
        resize = round(recipe.eval_resize * shape.img_size / chosen.architecture.img_size)
        recipe = recipe.model_copy(update={"eval_resize": resize})
    fusion = chosen.fusion.model_copy(update={"budget": args.budget}) if args.budget else chosen.fusion
    return replace(chosen, architecture=shape, recipe=recipe, fusion=fusion)


def _from_experiment(args: argparse.Namespace, path: Path) -> Chosen:
    experiment = Experiment.load(path)
    name = args.model or (next(iter(experiment.models)) if len(experiment.models) == 1 else None)
    if name not in experiment.models:
        found = "" if name is None else f" {name}: {path} has no such model"
        raise InputError(f"--model{found or ': name one'}; it has {', '.join(experiment.models)}")
    model = experiment.models[name].architecture
    if args.img_size is not None:  # schedules that are derived, such as `like: upper`, are derived for its tokens
        sized = experiment.models[name].model_copy(update={"img_size": args.img_size})
        experiment = experiment.model_copy(update={"models": {**experiment.models, name: sized}})
    cells = [experiment.cell(name, each, experiment.seeds[0]) for each in experiment.strategies]
    own = {cell.strategy: (cell.schedule, cell.fusion) for cell in cells if cell.strategy not in NAMED}
    recipe = experiment.recipe_of(name)
    return Chosen(name, model, recipe, experiment.dataset, experiment.fusion, own, experiment.listed)


def _from_checkpoint(args: argparse.Namespace, stored: Stored) -> Chosen:
    cell = stored.cell
    says = cell.model if cell else stored.model
    if args.model in (None, says) and cell is not None:
        own = {} if cell.strategy in NAMED else {cell.strategy: (cell.schedule, cell.fusion)}
        shared = Fusion(order=cell.fusion.order, budget=cell.fusion.budget)
        return Chosen(cell.model, cell.architecture, cell.recipe, cell.dataset, shared, own, cell.data)
    if args.model in (None, says) and stored.architecture is not None:
        return Chosen(says or "model", stored.architecture, _recipe(stored.architecture), None, Fusion(), {})
    if args.model is None:
        raise InputError(
            f"{stored.path}: does not say which model it is of; name it: --model {' or '.join(ARCHITECTURES)}, "
            "or --config EXPERIMENT --model NAME"
        )
    if args.model not in ARCHITECTURES:
        known = [*ARCHITECTURES, *([says] if says else [])]
        raise InputError(f"--model: unknown model {args.model!r}{nearest(args.model, known)}")
    shape = ARCHITECTURES[args.model]
    dataset, folder = (cell.dataset, cell.data) if cell else (None, None)
    return Chosen(args.model, shape, _recipe(shape), dataset, Fusion(), {}, folder)


def _recipe(shape: Architecture) -> Recipe:
    """The paper's, with its share of the image cut off by the evaluation."""
    paper = Recipe()
    assert paper.eval_resize is not None
    return paper.model_copy(update={"eval_resize": round(paper.eval_resize * shape.img_size / 224)})


def settings_of(
    chosen: Chosen, strategies: Sequence[str], methods: Sequence[str], given: Sequence[str]
) -> list[Setting]:
    """Every strategy under every method; one without a reduction once. Raises InputError for a name that is none.

    Without `methods`, strategies of an experiment keep their own. A method may have settings behind its name,
    `rmeeto:prune=true`; `given` are those of `--set`, for each method that has them.
    """
    pairs = [setting(text) for text in given]
    used: set[str] = set()
    found = []
    for name in strategies:
        schedule, fusion = _scheduled(chosen, name)
        if not any(schedule):
            found.append(Setting(name, schedule))
            continue
        for method, settings in [_method(method) for method in methods] or [_of(fusion)]:
            if not methods:
                _require_code(fusion)
            known = {*names.settings_of(names.method_class(method)), _PLACEMENT}
            taken = {key: value for key, value in pairs if key in known}
            used |= taken.keys()
            own, placement = apart(settings | taken)
            names.build(method, own, placement)
            found.append(Setting(name, schedule, method, settings | taken))
    for key, _ in pairs:
        if key not in used:
            raise InputError(f"--set {key}: none of these methods has this setting; see famba methods")
    by_name: dict[str, Setting] = {}
    for one in found:
        if by_name.setdefault(one.name, one) is not one:
            raise InputError(f"{one.name}: two settings of this name, and predictions of one file; name it once")
    return found


def is_meant(one: Setting, method: str, given: Sequence[str]) -> bool:
    """Whether a setting is of this method, written as one of `settings_of`, whose `given` it has taken."""
    name, settings = _method(method)
    taken = {key: value for key, value in map(setting, given) if key in one.settings}
    return (one.method, one.settings) == (name, settings | taken)


def _require_code(fusion: Fusion) -> None:
    """Raises InputError if the method of a training is no longer the code that it was trained with."""
    if fusion.code is not None and (found := code_of(fusion.method)) != fusion.code:
        raise InputError(
            f"method {fusion.method}: the training was one of {fusion.code}, and here is {found}; --method "
            f"{fusion.method} takes what is here"
        )


def _of(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    """The method of a training, and its settings."""
    settings: dict[str, Any] = dict(fusion.settings)
    settings |= {} if fusion.order == "sequence" else {"order": fusion.order}
    return fusion.method, settings | ({} if fusion.placement is None else {_PLACEMENT: fusion.placement})


def apart(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """A method's own settings, and its placement."""
    return {key: value for key, value in settings.items() if key != _PLACEMENT}, settings.get(_PLACEMENT)


def _method(text: str) -> tuple[str, dict[str, Any]]:
    """`rmeeto:prune=true`, or `FILE.py:Class:key=value`, taken apart."""
    parts = text.split(":")
    return ":".join(part for part in parts if "=" not in part), dict(setting(part) for part in parts if "=" in part)


def _scheduled(chosen: Chosen, name: str) -> tuple[tuple[int, ...], Fusion]:
    shape, shared = chosen.architecture, chosen.fusion.budget == "proportional"
    if name in chosen.own:
        schedule, fusion = chosen.own[name]
        remedy = "`like: upper` with a proportional budget, in its experiment, has a share of the tokens"
    elif name in NAMED:
        schedule, fusion = strategy(name, shape.depth, shape.tokens if shared else None), chosen.fusion
        remedy = "--budget proportional scales it"
    else:
        raise InputError(f"--strategies: unknown strategy {name!r}{nearest(name, [*NAMED, *chosen.own])}")
    scaled = shared and name not in chosen.own
    if not scaled and (found := beyond_cap(schedule, shape.tokens, shape.cls_index)):
        layer, asked, possible = found
        raise InputError(
            f"--strategies: {name} removes {asked} tokens in layer {layer}, where {possible} of {chosen.name} can go; "
            f"{remedy}"
        )
    return schedule, fusion
