"""`famba search`: schedules that cost least for the damage that they do to a trained model, beside the paper's."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from famba.commands import chosen, evaluate, loaded
from famba.commands.chosen import Setting
from famba.commands.loaded import Loaded, Some
from famba.commands.options import positive
from famba.commands.search_report import Candidate, Checked, Report, told, words
from famba.cost import damage, memory
from famba.cost.bench import cell_of
from famba.cost.calibrate import Probes
from famba.cost.roofline import interleaved_s
from famba.cost.search import CostModel, Front, summed
from famba.data.seeds import derived_seed
from famba.errors import InputError
from famba.flops import forward_flops, layer_cost, layer_flops, step_cost
from famba.methods import names
from famba.methods.interface import Method
from famba.strategies import STRATEGIES
from famba.text import count

Cost = Literal["flops", "step", "memory"]
COSTS: Mapping[Cost, str] = {
    "flops": "operations of one image's forward pass, by count",
    "step": "seconds of a training step, predicted from probes that are measured now",
    "memory": "bytes that the forward pass of one image saves for the backward pass, by count",
}
PAPER = STRATEGIES[1:]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba search`."""
    parser.description = (
        "Search the schedules that cost least for the damage that they do to a trained model, by what each layer alone "
        "does on training images, and evaluate them beside the paper's on test images; nothing is trained. "
        "Example: famba search weights.pt --method famba_v --loss 1 --limit 2000 --out search.csv"
    )
    loaded.add_arguments(parser)
    parser.add_argument("--method", metavar="M", help="as `famba evaluate` takes one [the training's]")
    parser.add_argument(
        "--cost", choices=list(COSTS), default="flops",
        help=f"the cost to minimise: {'; '.join(f'{name}: {words}' for name, words in COSTS.items())} [flops]",
    )  # fmt: skip
    parser.add_argument(
        "--shares", type=_shares, default=[0.9, 0.8, 0.7, 0.6, 0.5], metavar="S,S",
        help="costs to find a schedule for, as shares of the unreduced model's, beside the costs of the paper's "
        "schedules [0.9,0.8,0.7,0.6,0.5]",
    )  # fmt: skip
    parser.add_argument(
        "--loss", type=_points, default=[1.0], metavar="P,P",
        help="points of top-1 that may be lost, to find the cheapest schedule for [1]",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=positive, default=512, metavar="N",
        help="training images that the layers are measured on; as many others check the prediction [512]",
    )  # fmt: skip
    evaluate.add_measurement(parser)


def _shares(text: str) -> list[float]:
    numbers = [float(number) for number in text.split(",") if number]
    if any(not 0 < number <= 1 for number in numbers):
        raise ValueError
    return numbers


def _points(text: str) -> list[float]:
    numbers = [float(number) for number in text.split(",") if number]
    if any(not 0 <= number <= 100 for number in numbers):
        raise ValueError
    return numbers


_shares.__name__ = "list of shares above 0, up to 1"  # what argparse calls it in its message
_points.__name__ = "list of points from 0 to 100"


def main(args: argparse.Namespace) -> None:
    here = Loaded(args)
    paper, method = _settings(here, args)
    calibration, checking = _training_images(here, args.images)
    search = _Search(here, method, args.cost, calibration)
    found = [search.candidate(one) for one in paper if search.can_act(one)]
    for one in list(found):
        name = one.setting.strategy
        found += search.least_damage(f"found_{name}", one.cost, name)
    for share in args.shares:
        found += search.least_damage(f"found_cost_{words(100 * share)}", share * search.whole)
    outputs = _Outputs(here, checking)
    checked = [outputs.checked(one.setting) for one in found]
    # of the prediction, so that what the sum over layers misses is in it
    rate = damage.points_per_damage([one.damage for one in found], [one.points for one in checked])
    for points in args.loss:
        found.append(search.least_cost(f"found_loss_{words(points)}", points / rate if rate else 0.0))
        checked.append(outputs.checked(found[-1].setting))
    unreduced = Setting("baseline", (0,) * here.chosen.architecture.depth)
    found, checked = [search.candidate(unreduced), *found], [Checked(0.0, 0.0), *checked]

    report = Report(
        found=found,
        checked=checked,
        cost=args.cost,
        whole=search.whole,
        front=[(cost + search.costs.fixed, value) for cost, value in search.front.points],
        curves=search.curves,
        rate=rate,
        chosen_on=f"{count(args.images, 'training image')} of {here.dataset.name}, by {told(method)}",
        out=args.out,
    )
    lines, _ = evaluate.sweep(here, [one.setting for one in found], args, report.about)
    report.write(lines)


def _settings(here: Loaded, args: argparse.Namespace) -> tuple[list[Setting], Setting]:
    """The paper's schedules under the method; and one of them, from which others with its method are made."""
    methods = [args.method] if args.method else []
    settings = [one for one in chosen.settings_of(here.chosen, PAPER, methods, args.set) if any(one.schedule)]
    if not settings:
        raise InputError(f"{here.chosen.name}: the paper's schedules remove no tokens of so few")
    return settings, settings[0]


def _training_images(here: Loaded, wanted: int) -> tuple[Some, Some]:
    """Images that the layers are measured on, and others that check the prediction; no test image is among them."""
    every = len(here.dataset.train_images)
    if 2 * wanted > every:
        raise InputError(
            f"--images {wanted}: {here.dataset.name} has {every} training images, for {every // 2} at most"
        )
    order = np.random.default_rng(derived_seed(0, "search")).permutation(every)
    first, second = (np.sort(order[part * wanted : (part + 1) * wanted]) for part in (0, 1))
    return loaded.some(here.dataset, first, training=True), loaded.some(here.dataset, second, training=True)


class _Outputs:
    """Logits of one model under many schedules, on the same images."""

    def __init__(self, here: Loaded, images: Some) -> None:
        self.here, self.labels = here, torch.as_tensor(images.test_labels, device=here.device)
        self._batches = [batch for batch, _ in here.images(images)]
        self.unreduced = self.of(Setting("baseline", (0,) * here.chosen.architecture.depth))

    def of(self, setting: Setting) -> Tensor:
        """(N, classes). Raises InputError where the method cannot act in one of the layers."""
        forward = self.here.forward(setting)
        with self.here.evaluating():
            return torch.cat([forward(batch).float() for batch in self._batches])

    def checked(self, setting: Setting) -> Checked:
        """What a schedule really does, on images that it was not predicted from."""
        logits = self.of(setting) if any(setting.schedule) else self.unreduced
        right = [(x.argmax(dim=1) == self.labels).float().mean().item() for x in (self.unreduced, logits)]
        return Checked(damage.divergence(logits, self.unreduced), 100 * (right[0] - right[1]))


class _Search:
    """What each layer alone does, what it costs, and the schedules that are best by both."""

    def __init__(self, here: Loaded, method: Setting, cost: Cost, images: Some) -> None:
        self.method, self.shape = method, here.chosen.architecture
        self.images = len(images.places)
        self.curves = _curves(_Outputs(here, images), method)
        self.damages = damage.tables(self.curves, self.shape.tokens)
        own, placement = chosen.apart(method.settings)
        self.costs = _cost_model(here, cost, names.build(method.method, own, placement))
        self.front: Front = self.costs.front(self.damages)

    @property
    def whole(self) -> float:
        """The unreduced model's cost."""
        return self.costs.whole

    def can_act(self, setting: Setting) -> bool:
        """Whether the method can act in all layers of a schedule; said to be left out where not."""
        idle = [layer for layer, gone in enumerate(setting.schedule) if gone and self.curves[layer] is None]
        if idle:
            print(f"left out: {setting.strategy}: {self.method.method} cannot act in layer {idle[0]}", file=sys.stderr)
        return not idle

    def candidate(self, setting: Setting, rival: str = "") -> Candidate:
        """What is predicted of a schedule."""
        return Candidate(setting, self.costs.of(setting.schedule), summed(self.damages, setting.schedule), rival)

    def least_damage(self, name: str, cost: float, rival: str = "") -> list[Candidate]:
        """The best schedule that costs no more; said to be left out where none does."""
        schedule = self.front.at_cost(cost - self.costs.fixed)
        if schedule is None:
            cheapest = (self.front.points[0][0] + self.costs.fixed) / self.whole
            print(f"left out: {name}: no schedule costs less than {cheapest:.1%} of the model", file=sys.stderr)
            return []
        return [self.candidate(replace(self.method, strategy=name, schedule=schedule), rival)]

    def least_cost(self, name: str, damages: float) -> Candidate:
        """The cheapest schedule that does no more damage."""
        schedule = self.front.at_damage(damages)
        assert schedule is not None  # the unreduced model does none
        return self.candidate(replace(self.method, strategy=name, schedule=schedule))


def _curves(outputs: _Outputs, method: Setting) -> list[damage.Curve | None]:
    """The damage of each layer alone, by removed tokens; None of a layer in which the method cannot act."""
    shape = outputs.here.chosen.architecture
    curves: list[damage.Curve | None] = []
    problem = None
    for layer in range(shape.depth):
        curve = {}
        for gone in damage.removals(shape.tokens):
            schedule = tuple(gone if other == layer else 0 for other in range(shape.depth))
            try:
                logits = outputs.of(replace(method, strategy="alone", schedule=schedule))
            except InputError as error:
                problem = error
                break
            curve[gone] = damage.divergence(logits, outputs.unreduced)
        curves.append(curve or None)
        if not curve:
            print(f"layer {layer}: left as it is: {problem}", file=sys.stderr)
    if problem is not None and not any(curves):
        raise problem
    return curves


def _cost_model(here: Loaded, cost: Cost, method: Method) -> CostModel:
    shape, none = here.chosen.architecture, (0,) * here.chosen.architecture.depth
    precision, device = here.recipe.precision, here.device.type
    layer = partial(layer_cost, shape, precision=precision, scan=here.scan.name, method=method)
    if cost == "flops":
        return CostModel(shape, layer_flops, layer, float(forward_flops(shape, none, here.classes)))
    sizes = {"epochs": 1, "warmup_epochs": 0, "precision": precision}
    images = min(here.recipe.micro_batch, 8) if device == "cpu" else here.recipe.micro_batch
    cell = cell_of(shape, none, images, **sizes)
    counted = step_cost(cell, here.classes, here.scan.name)
    if cost == "memory":
        return CostModel(shape, attrgetter("saved"), layer, float(counted.saved_per_image))
    with memory.reported(here.chosen.name, lambda _: memory.step_remedy(cell, here.device, "recipe.micro_batch")):
        probes = Probes(cell, here.device, here.scan.name, here.classes)
        found = probes.calibration(interleaved_s(probes.runs, here.device, rounds=5))
    seconds = partial(found.layer_s, images=images, passes=counted.passes)
    return CostModel(shape, seconds, layer, found.step_s(counted))
