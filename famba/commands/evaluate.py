"""`famba evaluate`: any checkpoint under any strategies and methods, without training; a CSV line for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from famba import __version__, data, ops
from famba.commands import chosen
from famba.commands.chosen import Chosen, Setting
from famba.config.datasets import DATA_HELP, data_folder
from famba.config.image_folder import ImageFolder, ListedFolder, listed
from famba.cost.inference import Speed, peak, speeds
from famba.data.loader import EvalLoader
from famba.errors import CheckFailed, InputError
from famba.flops import forward_flops
from famba.model import VisionMamba
from famba.ops.dispatch import Selection
from famba.results.epochs import write_csv
from famba.results.pairs import compare_settings
from famba.results.predictions import NAME as PREDICTIONS
from famba.results.predictions import Predictions, write_predictions
from famba.results.summary import chance_note
from famba.results.tables import Column, table
from famba.strategies import STRATEGIES
from famba.system import float32
from famba.system.device import environment, pick_device
from famba.text import count
from famba.training import checks, weights
from famba.training.evaluate import Forward, lengths, predict
from famba.training.result import image_tokens

Line = dict[str, Any]
_TIMED = 64  # test images, or a batch of them, on which speeds are measured where a threshold makes them differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba evaluate`."""
    parser.description = (
        "Evaluate a checkpoint under strategies and methods of token reduction, without training: accuracy, speed, "
        "memory and tokens, a CSV line for each. Example: famba evaluate vim.pth --model vim_tiny --dataset cifar100 "
        "--strategies baseline,upper --method famba_v,rmeeto:prune=true --out evaluation.csv"
    )
    chosen.add_arguments(parser)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"{', '.join(data.NAMES)}, or the manifest of an image folder [the training's]",
    )
    parser.add_argument("--root", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)
    parser.add_argument("--strategies", type=_names, metavar="A,B", help=f"[{','.join(STRATEGIES)}]")
    parser.add_argument(
        "--method",
        type=_names,
        default=[],
        metavar="M,M2",
        help="a name, FILE.py:Class, or one of these with settings behind it, rmeeto:prune=true [the training's]",
    )
    parser.add_argument(
        "--against",
        metavar="M",
        help="one of these methods, or `none` for no reduction: every other setting is compared with it on the same "
        "images (exact McNemar test)",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="N images alone, evenly spaced in the test set")
    parser.add_argument(
        "--batch", type=_counts, default=[1, 32], metavar="N,N", help="images of a pass whose speed is measured [1,32]"
    )
    parser.add_argument(
        "--rounds", type=_count, default=5, metavar="N", help="passes that a speed is the median of [5]"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="[the training's, else fp32]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads [all cores]")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="predictions go into a folder beside"
    )


def main(args: argparse.Namespace) -> None:
    stored = weights.read(args.checkpoint, args.weights)
    model = chosen.model_of(args, stored)
    settings = chosen.settings_of(model, args.strategies or STRATEGIES, args.method, args.set)
    references = _references(args, model, settings)
    name, folder = _dataset(args, model)
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    float32.fix()
    scan = ops.choose(device, requested=args.scan)
    dataset = data.load(name, args.root, folder)
    recipe = model.recipe.model_copy(update={"precision": args.precision or model.recipe.precision})
    some = _Some(dataset, args.limit)
    images = EvalLoader(some, recipe, model.architecture.img_size, device)

    built = _built(settings, model, len(dataset.classes), scan)
    first = built[0][1]
    fitted = weights.fit(stored, first, args.stored_cls_position)
    for note in fitted.notes:
        print(f"{stored.path}: {note}")
    if fitted.new_head and args.against:
        raise InputError(f"--against {args.against}: {stored.path} has no head for {name}, so there is no accuracy")
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    own = first.to(device).state_dict()
    forwards = []
    for _, other in built:
        other.to(device).load_state_dict(own, assign=True)  # the weights are in memory once
        forwards.append(_FiniteForward(other, autocast))

    common = _common(args, model, dataset, stored, images, device, scan, recipe.precision)
    timed = _first(images, max(*args.batch, _TIMED)) if any(one.model.varies for one in forwards) else None
    lines: list[Line] = []
    correct: dict[str, np.ndarray] = {}
    for (setting, _), forward in zip(built, forwards, strict=True):
        line = {"strategy": setting.strategy, "method": setting.method, "settings": _joined(setting.settings)}
        made = None if fitted.new_head else _predicted(forward, images, some, dataset)
        line |= _accuracy(made, dataset, args.out, setting)
        if made:
            correct[setting.name] = made.correct
        line |= _size(forward, model, len(dataset.classes), max(args.batch), images, timed)
        lines.append(line | {"head": "new" if fitted.new_head else "stored"} | common)
        _write(lines, args)
    for line, speed in zip(lines, speeds(forwards, args.batch, device, args.rounds, timed), strict=True):
        line.update(_speed(speed))
    if args.against:
        there = {name: of for name, of in references.items() if name in correct and of in correct}
        for compared, (setting_name, found) in zip(lines, compare_settings(correct, there).items(), strict=True):
            compared.update({"against": there.get(setting_name)} | found)
    _write(lines, args)
    print(_shown(lines))
    if known := [line["top1"] for line in lines if line["top1"] is not None]:
        print(chance_note(known, len(images)))
    print(f"{args.out}: {count(len(lines), 'setting')}, {count(len(images), 'image')} of {name}")


def _dataset(args: argparse.Namespace, model: Chosen) -> tuple[str, ListedFolder | None]:
    """The data set that --dataset names, else the training's; an image folder's name is that of its manifest's file."""
    if args.dataset is None:
        if model.dataset is None:
            raise InputError(f"{args.checkpoint}: does not say of which data set it is; name one: --dataset")
        return model.dataset, model.folder
    if args.dataset in data.NAMES or not Path(args.dataset).is_file():
        return args.dataset, model.folder if args.dataset == model.dataset else None
    return Path(args.dataset).stem, listed(ImageFolder(manifest=args.dataset))


def _references(args: argparse.Namespace, model: Chosen, settings: Sequence[Setting]) -> dict[str, str]:
    """The name of what each setting is compared with: `--against` under the same strategy. Raises InputError."""
    if not args.against:
        return {}
    strategies = list(dict.fromkeys(one.strategy for one in settings))
    if args.against == "none":
        of = {one.strategy: other.name for other in settings if not any(other.schedule) for one in settings}
    else:
        of = {one.strategy: one.name for one in chosen.settings_of(model, strategies, [args.against], args.set)}
    names = {one.name for one in settings}
    found = {one.name: of[one.strategy] for one in settings if of.get(one.strategy) in names - {one.name}}
    if not found:
        raise InputError(f"--against {args.against}: nothing to compare with it; it and others must be evaluated, too")
    return found


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _counts(text: str) -> list[int]:
    return [_count(number) for number in text.split(",")]


_count.__name__ = "positive integer"  # what argparse calls it in its message
_counts.__name__ = "list of positive integers"


class _Some:
    """Evenly spaced images of a test set, as `EvalLoader` takes them: a set may be sorted by class.

    `places`: where they are in it.
    """

    def __init__(self, dataset: data.Dataset, limit: int | None) -> None:
        self.train_images, self.train_labels, self.classes = dataset.train_images, dataset.train_labels, dataset.classes
        every = len(dataset.test_images)
        wanted = min(limit or every, every)
        self.places = np.arange(wanted) * every // wanted
        self.test_images = dataset.test_images[self.places]
        self.test_labels: np.ndarray = dataset.test_labels[self.places]


class _FiniteForward(Forward):
    """Raises CheckFailed where a logit is not finite."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """See `Forward`."""
        logits = super().__call__(images)
        if not logits.isfinite().all():
            first = checks.first_not_finite(self.model, [images], self.autocast)
            raise CheckFailed(f"logits are not finite; first not finite: {first}")
        return logits


def _built(
    settings: Sequence[Setting], model: Chosen, classes: int, scan: Selection
) -> list[tuple[Setting, VisionMamba]]:
    """A model for each setting. Of several, one whose method cannot act in a layer is left out, and said to be."""
    built: list[tuple[Setting, VisionMamba]] = []
    problems: list[str] = []
    for setting in settings:
        try:
            built.append((setting, setting.build(model.architecture, classes, scan.name)))
        except InputError as error:
            problems.append(f"{setting.name}: {error}")
    if not built:
        raise InputError(problems[0])
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return built


def _predicted(forward: Forward, images: EvalLoader, some: _Some, dataset: data.Dataset) -> Predictions:
    top5 = predict(forward, images, len(dataset.classes), lambda: None).cpu().numpy()
    return Predictions(top5, some.test_labels, some.places)


def _accuracy(made: Predictions | None, dataset: data.Dataset, out: Path, setting: Setting) -> Line:
    """Top-1 and top-5, and where the predictions are; None of it under a head that has not been trained."""
    if made is None:
        return {"top1": None, "top5": None, "predictions": None}
    place = out.parent / f"{out.stem}-predictions" / setting.name / PREDICTIONS
    write_predictions(made, dataset.identity, place)
    return {
        "top1": made.accuracies[0],
        "top5": made.accuracies[1],
        "predictions": place.relative_to(out.parent).as_posix(),
    }


def _first(images: EvalLoader, number: int) -> torch.Tensor:
    """So many of the test images, or all of them."""
    batches = []
    for batch, _ in images:
        batches.append(batch)
        if sum(map(len, batches)) >= number:
            break
    return torch.cat(batches)[:number]


def _size(
    forward: Forward, model: Chosen, classes: int, batch: int, images: EvalLoader, timed: torch.Tensor | None
) -> Line:
    """Tokens, measured and checked, arithmetic by count, and memory; with a threshold, the first two in the mean."""
    device, tokens = images.device, checks.checked_tokens(forward.model, images.device)
    if forward.model.varies:
        measured = lengths(forward, images, lambda: None)
        seen, flops = image_tokens(forward.model, model.architecture, classes, measured)
        shown = " ".join(f"{mean:.2f}" for mean in seen.measured)
    else:
        before = (model.architecture.tokens, *tokens[:-2])
        mixed = [then - now for then, now in zip(before, tokens[:-1], strict=True)]
        flops = forward_flops(model.architecture, mixed, classes, method=forward.model.method)
        shown = " ".join(map(str, tokens))
    total, added = peak(forward, batch, device, timed)
    return {
        "tokens": shown,
        "forward_flops": flops,
        "memory": total,
        "memory_added": added,
        "memory_batch": batch,
    }


def _speed(speed: Speed) -> Line:
    by_batch = {f"images_per_s_{batch}": value for batch, value in speed.images_per_s.items()}
    return {"images_per_s": max(speed.images_per_s.items())[1], "latency_ms": speed.latency_ms} | by_batch


def _common(
    args: argparse.Namespace,
    model: Chosen,
    dataset: data.Dataset,
    stored: weights.Stored,
    images: EvalLoader,
    device: torch.device,
    scan: Selection,
    precision: str,
) -> Line:
    """What all settings have in common: which model and images, where and with what they were evaluated."""
    here = environment(device, 1)
    return {
        "model": model.name,
        "img_size": model.architecture.img_size,
        "cls_position": model.architecture.cls_position,
        "checkpoint": stored.path.name,
        "checkpoint_sha256": stored.sha256,
        "weights": args.weights,
        "dataset": dataset.name,
        "images": len(images),
        "test_digest": dataset.identity.test_digest,
        "order_digest": dataset.identity.order_digest,
        "precision": precision,
        "scan": scan.name,
        "device": here.device,
        "threads": here.threads,
        "python": here.python,
        "torch": here.packages["torch"],
        "famba": __version__,
        "git_commit": here.git_commit,
    }


def _write(lines: Sequence[Line], args: argparse.Namespace) -> None:
    """All lines so far, so that a sweep that is stopped has lost none. The speeds come last."""
    speed = ["images_per_s", "latency_ms", *(f"images_per_s_{batch}" for batch in args.batch)]
    head = ["strategy", "method", "settings", "top1", "top5", *speed]
    write_csv([*head, *(key for key in lines[0] if key not in head)], lines, args.out)


def _joined(settings: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _shown(lines: Sequence[Line]) -> str:
    """For people: what differs between the settings."""
    columns = [
        Column("strategy"), Column("method"), Column("top-1 (%)", "r"), Column("top-5 (%)", "r"),
        Column("images/s", "r"), Column("latency (ms)", "r"), Column("memory added (MiB)", "r"),
        Column("tokens left", "r"),
    ]  # fmt: skip
    if "against" in lines[0]:
        columns += [Column("difference (points)", "r"), Column("p (Holm)", "r")]
    body = [
        (
            line["strategy"],
            " ".join(filter(None, (line["method"], line["settings"]))),
            "–" if line["top1"] is None else f"{line['top1']:.2f}",
            "–" if line["top5"] is None else f"{line['top5']:.2f}",
            f"{line['images_per_s']:,.1f}",
            f"{line['latency_ms']:.1f}",
            "–" if line["memory_added"] is None else f"{line['memory_added'] / 2**20:,.1f}",
            line["tokens"].rpartition(" ")[2],
            *(_difference(line) if "against" in line else ()),
        )
        for line in lines
    ]
    return table(columns, body).plain


def _difference(line: Line) -> tuple[str, str]:
    """From the method that it is compared with: points with their interval, and Holm's p."""
    if line["against"] is None:
        return "–", "–"
    return f"{line['difference']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}]", f"{line['p_holm']:.2g}"
