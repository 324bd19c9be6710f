"""`famba evaluate`: any checkpoint under any strategies and methods, without training; a CSV line for each."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from famba import __version__, data
from famba.commands import chosen, loaded
from famba.commands.chosen import Setting
from famba.commands.loaded import Loaded, Some
from famba.commands.options import positive
from famba.config.methods import code_of
from famba.cost.inference import peak, speeds
from famba.data.loader import EvalLoader
from famba.errors import InputError
from famba.flops import forward_flops
from famba.model import VisionMamba
from famba.results.epochs import write_csv
from famba.results.pairs import compare_settings
from famba.results.predictions import NAME as PREDICTIONS
from famba.results.predictions import Predictions, write_predictions
from famba.results.summary import chance_note
from famba.results.tables import Column, table
from famba.strategies import STRATEGIES
from famba.system.device import environment
from famba.text import count
from famba.training import checks
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
    loaded.add_arguments(parser)
    parser.add_argument("--strategies", type=loaded.names, metavar="A,B", help=f"[{','.join(STRATEGIES)}]")
    parser.add_argument(
        "--method",
        type=loaded.names,
        default=[],
        metavar="M,M2",
        help="a name or FILE.py:Class, with settings after it: rmeeto:prune=true [the training's]",
    )
    parser.add_argument(
        "--against",
        metavar="M",
        help="one of these methods, or `none` for no reduction: every other setting is compared with it on the same "
        "images (exact McNemar test)",
    )
    add_measurement(parser)


def add_measurement(parser: argparse.ArgumentParser) -> None:
    """How many images and passes a setting is measured with, and where the lines go."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced in the test set")
    parser.add_argument(
        "--batch", type=_counts, default=[1, 32], metavar="N,N", help="batch sizes whose speed is measured [1,32]"
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="timed passes; their median is reported [5]"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="predictions go to a folder beside it"
    )


def main(args: argparse.Namespace) -> None:
    here = Loaded(args)
    settings = chosen.settings_of(here.chosen, args.strategies or STRATEGIES, args.method, args.set)
    references = _references(args, settings)
    lines, correct = sweep(here, settings, args)
    if args.against:
        there = {name: of for name, of in references.items() if name in correct and of in correct}
        for compared, (setting_name, found) in zip(lines, compare_settings(correct, there).items(), strict=True):
            compared.update({"against": there.get(setting_name)} | found)
        _write(lines, args)
    print(_shown(lines))
    images = lines[0]["images"]
    if known := [line["top1"] for line in lines if line["top1"] is not None]:
        print(chance_note(known, images))
    print(f"{args.out}: {count(len(lines), 'setting')}, {count(images, 'image')} of {here.dataset.name}")


def sweep(
    here: Loaded,
    settings: Sequence[Setting],
    args: argparse.Namespace,
    about: Callable[[Line, Mapping[str, np.ndarray]], Line] = lambda *_: {},
) -> tuple[list[Line], dict[str, np.ndarray]]:
    """Measure settings as `add_measurement` says, and write a line for each to --out as soon as its accuracy is known.

    `about`: what else a line is to say, from what it says so far and from the images that are right so far.

    Returns the lines, and by the name of each setting which images are right (N,).
    """
    some = here.tested(args.limit)
    images = here.images(some)
    built = _built(settings, here)
    forwards = [here.of_model(model) for _, model in built]
    new_head, against = here.fitted.new_head, getattr(args, "against", None)
    if new_head and against:
        data_set = here.dataset.name
        raise InputError(f"--against {against}: {here.stored.path} has no head for {data_set}, so there is no accuracy")
    common = _common(args, here, images)
    timed = _first(images, max(*args.batch, _TIMED)) if any(one.model.varies for one in forwards) else None
    lines: list[Line] = []
    correct: dict[str, np.ndarray] = {}
    for (setting, _), forward in zip(built, forwards, strict=True):
        given = " ".join(f"{key}={value}" for key, value in setting.settings.items())
        line: Line = {"strategy": setting.strategy, "method": setting.method, "settings": given}
        line["code"] = None if setting.method == chosen.NONE else code_of(setting.method)
        with here.evaluating():
            made = None if new_head else _predicted(forward, images, some, here.dataset)
        line |= _accuracy(made, here.dataset, args.out, setting)
        if made:
            correct[setting.name] = made.correct
        more = about(line, correct)
        line |= _size(forward, here, max(args.batch), images, timed)
        lines.append(line | {"head": "new" if new_head else "stored"} | common | more)
        _write(lines, args, tuple(more))
    with here.fitting("--batch", max(args.batch)):
        measured = speeds(forwards, args.batch, here.device, args.rounds, timed)
    for line, speed in zip(lines, measured, strict=True):
        line.update({"images_per_s": max(speed.images_per_s.items())[1], "latency_ms": speed.latency_ms})
        line.update({f"images_per_s_{batch}": value for batch, value in speed.images_per_s.items()})
    _write(lines, args, tuple(more))
    return lines, correct


def _references(args: argparse.Namespace, settings: Sequence[Setting]) -> dict[str, str]:
    """The name of what each setting is compared with: `--against` under the same strategy. Raises InputError."""
    if not args.against:
        return {}
    if args.against == "none":
        of = {one.strategy: other.name for other in settings if not any(other.schedule) for one in settings}
    else:
        of = {one.strategy: one.name for one in settings if chosen.is_meant(one, args.against, args.set)}
    found = {one.name: of[one.strategy] for one in settings if of.get(one.strategy, one.name) != one.name}
    if not found:
        raise InputError(f"--against {args.against}: nothing to compare; evaluate it and at least one other setting")
    return found


def _counts(text: str) -> list[int]:
    return [positive(number) for number in text.split(",")]


_counts.__name__ = "list of positive integers"  # what argparse calls it in its message


def _built(settings: Sequence[Setting], here: Loaded) -> list[tuple[Setting, VisionMamba]]:
    """A model for each setting. Of several, one whose method cannot act in a layer is left out, and said to be."""
    built: list[tuple[Setting, VisionMamba]] = []
    problems: list[str] = []
    for setting in settings:
        try:
            built.append((setting, setting.build(here.chosen.architecture, here.classes, here.scan.name)))
        except InputError as error:
            problems.append(f"{setting.name}: {error}")
    if not built:
        raise InputError(problems[0])
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return built


def _predicted(forward: Forward, images: EvalLoader, some: Some, dataset: data.Dataset) -> Predictions:
    top5, _ = predict(forward, images, len(dataset.classes), lambda: None)
    return Predictions(top5.cpu().numpy(), some.test_labels, some.places)


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


def _size(forward: Forward, here: Loaded, batch: int, images: EvalLoader, timed: torch.Tensor | None) -> Line:
    """Tokens, measured and checked, arithmetic by count, and memory; with a threshold, the first two in the mean."""
    shape, tokens = here.chosen.architecture, checks.checked_tokens(forward.model, here.device)
    if forward.model.varies:
        with here.evaluating():
            measured = lengths(forward, images, lambda: None)
        seen, flops = image_tokens(forward.model, shape, here.classes, measured)
        shown = " ".join(f"{mean:.2f}" for mean in seen.measured)
    else:
        flops = forward_flops(shape, forward.model.schedule, here.classes, method=forward.model.method)
        shown = " ".join(map(str, tokens))
    with here.fitting("--batch", batch):
        total, added = peak(forward, batch, here.device, timed)
    return {
        "tokens": shown,
        "forward_flops": flops,
        "memory": total,
        "memory_added": added,
        "memory_batch": batch,
    }


def _common(args: argparse.Namespace, here: Loaded, images: EvalLoader) -> Line:
    """What all settings have in common: which model and images, where and with what they were evaluated."""
    machine, identity = environment(here.device, 1), here.dataset.identity
    return {
        "model": here.chosen.name,
        "img_size": here.chosen.architecture.img_size,
        "cls_position": here.chosen.architecture.cls_position,
        "checkpoint": here.stored.path.name,
        "checkpoint_sha256": here.stored.sha256,
        "weights": args.weights,
        "dataset": here.dataset.name,
        "images": len(images),
        "test_digest": identity.test_digest,
        "order_digest": identity.order_digest,
        "precision": here.recipe.precision,
        "scan": here.scan.name,
        "device": machine.device,
        "threads": machine.threads,
        "python": machine.python,
        "torch": machine.packages["torch"],
        "famba": __version__,
        "git_commit": machine.git_commit,
    }


def _write(lines: Sequence[Line], args: argparse.Namespace, more: Sequence[str] = ()) -> None:
    """All lines so far, so that a sweep that is stopped has lost none. The speeds come last."""
    speed = ["images_per_s", "latency_ms", *(f"images_per_s_{batch}" for batch in args.batch)]
    head = ["strategy", "method", "settings", "top1", "top5", *more, *speed]
    write_csv([*head, *(key for key in lines[0] if key not in head)], lines, args.out)


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
