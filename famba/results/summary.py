"""From result rows to the summary: one line per model and strategy.

The primary accuracy is the last epoch's: the best epoch, which the paper reports, is chosen on the test set. Training
time leaves out evaluation and each run's first step (compilation, allocation); `loop_s` is the released code's whole
loop. Ratios of time are of CPU time on a CPU: there another program changes the wall clock by any factor, and CPU time
as far as it uses the same caches and hyperthreads. `step_ratio` is free of that where the row measured it in pairs.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from famba.errors import InputError
from famba.results.row import Row, by_line, grouped, read_row
from famba.results.statistics import accuracy_error, interval
from famba.strategies import STRATEGIES
from famba.text import count, one_line

MIB = 2**20
SHARED = 1.1  # wall clock to CPU time, from which on the machine was shared
RATIOS: dict[str, Callable[[Row], float]] = {  # of a row to the unfused row of the same model and seed
    "time_ratio": lambda row: row.time.compared_train_s,
    "step_ratio": lambda row: row.time.compared_step_ms,
    "peak_memory_ratio": lambda row: row.memory.peak,
    "saved_activations_ratio": lambda row: row.memory.saved_activations,
}
COMPARED = ("top1_last_percent", "train_s", "step_ratio", "saved_activations_ratio")  # between revisions
Line = dict[str, Any]


def read_rows(paths: Sequence[Path]) -> dict[Path, Row]:
    """Read rows that may stand side by side, model by model (smallest first), in the strategies' order, by seed.

    Raises:
        InputError: an unreadable row, an id twice, or two rows that must not be compared; names both files.
    """
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice:
        raise InputError(f"{twice} is given twice; give each row once")
    read = {path: read_row(path) for path in paths}
    order = strategy_order(row.cell.strategy for row in read.values())
    rows = dict(
        sorted(
            read.items(),
            key=lambda item: (
                item[1].cost.parameters, item[1].cell.model, order.index(item[1].cell.strategy), item[1].cell.seed,
            ),
        )
    )  # fmt: skip
    _check_comparable(rows)
    return rows


def strategy_order(names: Iterable[str]) -> list[str]:
    """Each strategy once: the paper's in its order, then the experiment's own by name, numbers by their value."""
    there = set(names)
    return [*(name for name in STRATEGIES if name in there), *sorted(there - set(STRATEGIES), key=_by_number)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that puts `start_2` before `start_15`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name)]


def measures(row: Row) -> dict[str, float]:
    """What one training yields as numbers, units in the names. Peak memory is the device's, on a CPU the host's."""
    accuracies = {"last": row.metrics.last, "best": row.metrics.best}
    averaged = {"ema_last": row.metrics.ema_last, "ema_best": row.metrics.ema_best}
    return {
        **{f"top1_{when}_percent": accuracy.top1 for when, accuracy in (accuracies | averaged).items()},
        **{f"top5_{when}_percent": accuracy.top5 for when, accuracy in (accuracies | averaged).items()},
        "train_s": row.time.train - row.time.warmup,
        "cpu_s": row.time.cpu,
        "loop_s": row.time.judged_seconds,
        "total_s": row.time.total,
        "step_ms": row.time.step_ms,
        "images_per_s": row.time.images_per_s,
        "peak_memory_mib": row.memory.peak / MIB,
        "saved_activations_mib_per_image": row.memory.saved_activations / MIB,
    }


def step_of(measure: str, images: int) -> float:
    """What one of the test images is of a measure, in its unit; 0 of all measures but accuracies."""
    return 100 / images if measure.startswith(("top1_", "top5_")) else 0.0


def ratios(row: Row, rows: Mapping[Path, Row]) -> dict[str, float | None]:
    """Measures of a row relative to the baseline of the same model and seed; None where that is missing."""
    pair = unfused(row, rows)
    found = {name: of(row) / of(rows[pair]) if pair else None for name, of in RATIOS.items()}
    return found if row.time.step_ratio is None else found | {"step_ratio": row.time.step_ratio}


def _to_baseline(row: Row, rows: Mapping[Path, Row]) -> float | None:
    """Top-1 of the last epoch less that of the baseline of the same model and seed; None where that is missing."""
    pair = unfused(row, rows)
    return row.metrics.last.top1 - rows[pair].metrics.last.top1 if pair else None


def unfused(row: Row, rows: Mapping[Path, Row]) -> Path | None:
    """Of `rows`, the baseline of the same model and seed: what a ratio refers to."""
    wanted = (row.cell.model, "baseline", row.cell.seed)
    return next((path for path, other in rows.items() if (*other.cell.line, other.cell.seed) == wanted), None)


def wall_to_cpu(row: Row) -> float | None:
    """Wall clock of the steps to the CPU time of the thread that runs them, waits for loading processes left out.

    That thread works, or spins while its helpers do, all the time: the number of threads does not matter, and a ratio
    above `SHARED` is of a processor that others used, too. None where the thread waits for something else: a GPU, or
    other processes.
    """
    recipe, time, environment = row.cell.recipe, row.time, row.environment
    if environment.device_kind != "cpu" or environment.world_size > 1:
        return None
    loads = recipe.augmentation == "timm" or row.cell.data is not None  # in processes of its own, if there are any
    waits = time.data_wait if loads and recipe.workers else 0.0
    return max(time.train - time.warmup - waits, 0.0) / time.thread_cpu


def shared_note(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """What a reader of times must know of a machine that was shared, in a sentence; None of one that was not."""
    shared = [line for line in lines if line["wall_to_cpu"] is not None and line["wall_to_cpu"] > SHARED]
    if not shared:
        return None
    most = max(shared, key=lambda line: line["wall_to_cpu"])
    return (
        f"The machine was shared: steps took up to {most['wall_to_cpu']:.2f} times their CPU time "
        f"({most['model']} {most['strategy']}; {len(shared)} of {count(len(lines), 'line')} above {SHARED:g}). "
        "Wall-clock times are not the training's own. CPU times are, except for shared caches and hyperthreads, which "
        "step time ratios measured in pairs cancel."
    )


def accuracy_note(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the size of the test set leaves open of every accuracy, in two sentences."""
    return chance_note((line["top1_last_percent"] for line in lines), lines[0]["test_images"])


def chance_note(top1: Iterable[float], images: int) -> str:
    """The same of accuracies in percent on so many images."""
    error = max(accuracy_error(percent, images) for percent in top1)
    apart = error * math.sqrt(2)
    return (
        f"One of the {images:,} test images is {100 / images:.2g} points. The choice of images alone leaves a top-1 "
        f"uncertain by ± {error:.1f} points at most (binomial, 95 %), and the difference of two lines by ± {apart:.1f} "
        f"({apart * images / 100:.0f} images), unless they are compared image by image."
    )


def token_share(row: Row) -> float:
    """Tokens seen by all layers relative to a model that fuses none: the predicted ratio of time and of memory."""
    return sum(row.tokens.measured[:-1]) / (row.cell.architecture.depth * row.cell.architecture.tokens)


def summarise(rows: Mapping[Path, Row]) -> list[Line]:
    """One line per model and strategy: means over seeds, each with the half-width of its 95 % interval (`_ci95`).

    A ratio is paired by seed, and empty unless every seed of the line has its baseline.
    """
    lines = []
    for (model, strategy), group in by_line(rows.values()).items():
        first = group[0]
        line: Line = {
            "model": model,
            "strategy": strategy,
            "n": len(group),
            "seeds": " ".join(str(row.cell.seed) for row in group),
            "epochs": first.cell.recipe.epochs,
            "tokens_first": first.cell.architecture.tokens,
            "tokens_final": _mean([row.tokens.measured[-1] for row in group]),
            "token_share": _mean([token_share(row) for row in group]),
        }
        per_seed: list[dict[str, float | None]] = [
            {
                **measures(row),
                "step_cpu_ms": row.time.step_cpu_ms,
                **ratios(row, rows),
                "top1_to_baseline_points": _to_baseline(row, rows),
            }
            for row in group
        ]
        for name in per_seed[0]:
            values = [seed[name] for seed in per_seed]
            there = [value for value in values if value is not None]
            complete = len(there) == len(values)
            line[name] = statistics.fmean(there) if complete else None
            line[f"{name}_ci95"] = interval(there, step_of(name, first.data.test)) if complete else None
        shares = [share for row in group if (share := wall_to_cpu(row)) is not None]
        line |= {
            "wall_to_cpu": max(shares, default=None),  # of the seed that was disturbed most
            "peak_memory_of": memory_kind(first),
            "parameters": first.cost.parameters,
            "forward_flops_per_image": first.cost.forward_flops,
            "protocol": first.cell.protocol,
            "recipe": first.cell.recipe.preset,
            "dataset": first.cell.dataset,
            "test_images": first.data.test,
            "device": first.environment.device,
            "watermark": first.watermark,
        }
        lines.append(line)
    return lines


def _mean(values: Sequence[float]) -> float:
    """Of equal ones that very value: tokens differ between seeds only where a threshold decides."""
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def memory_kind(row: Row) -> str:
    """Whose memory the peak is."""
    return "device" if row.memory.device_peak is not None else "host resident set"


def described(rows: Mapping[Path, Row]) -> str:
    """What was run, in one line: protocol, recipe where it is a named one, data, device, seeds, epochs."""
    first = next(iter(rows.values()))
    environment, data = first.environment, first.data
    recipes = {row.cell.model: row.cell.recipe for row in rows.values()}
    presets = {model: recipe.preset for model, recipe in recipes.items()}
    named = {f"recipe {preset}" for preset in presets.values() if preset != "custom"}
    if len(set(recipes.values())) > 1:
        named = {"recipes " + ", ".join(f"{preset} ({model})" for model, preset in presets.items())}
    epochs = " or ".join(map(str, sorted({recipe.epochs for recipe in recipes.values()})))
    seeds = sorted({row.cell.seed for row in rows.values()})
    device = f"{environment.world_size} × {environment.device}" if environment.world_size > 1 else environment.device
    if environment.device_kind == "cpu":
        device += f" ({count(environment.threads, 'thread')})"
    parts = [
        f"protocol {first.cell.protocol}",
        *named,
        f"{data.name} ({data.train:,} training and {data.test:,} test images"
        f"{'' if data.official else ', not the official files'})",
        device,
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}",
        f"{epochs} epoch{'' if epochs == '1' else 's'}",
    ]
    return one_line(", ".join(parts))


def compared(lines: Sequence[Line]) -> dict[str, dict[str, Line]]:
    """{metric: {model: {strategy: value}}} of a few numbers, the empty ones left out: what `dvc metrics diff` shows.

    It prints a line for each number that has changed; all there are would be hundreds, most of them of the clock.
    """
    return {
        metric: {
            model: {line["strategy"]: line[metric] for line in group if line[metric] is not None}
            for model, group in grouped(lines, lambda line: line["model"]).items()
        }
        for metric in COMPARED
    }


def learned_from(row: Row) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(what, value) of all that a training learned from, by content: its images and its initial weights.

    Names and paths do not tell: a data set may have another origin, and a checkpoint another training behind it.
    Trainings that differ in one of these are no two of one kind. The parts of what are joined by "of" in a message.
    """
    yield ("train digest of the data",), row.data.train_digest
    yield ("test digest of the data",), row.data.test_digest
    yield ("decoder of the images",), row.data.decoder
    yield ("training from scratch",), row.init.sha256 is None
    each = (f"seed {row.cell.seed}",) if "{seed}" in (row.cell.recipe.init or "") else ()
    yield ("initial weights", row.cell.model, *each), row.init.sha256


def _check_comparable(rows: Mapping[Path, Row]) -> None:
    """Refuse rows that differ in anything but model, strategy and seed, and rows of one training by two names."""
    first_of: dict[tuple[str, ...], tuple[Path, Any]] = {}
    named: dict[tuple[Any, str], str] = {}
    for path, row in rows.items():
        name = named.setdefault((row.cell.architecture, row.cell.recipe.identity), row.cell.model)
        if name != row.cell.model:
            raise InputError(f"{path}: {row.cell.model} is {name} by another name, under one recipe; judge them apart")
        if ("id", row.id) in first_of:
            raise InputError(f"{first_of['id', row.id][0]} and {path} are both row {row.id}; give each cell once")
        first_of["id", row.id] = (path, None)
        for key, value in must_agree(row):
            other, expected = first_of.setdefault(key, (path, value))
            if value != expected:
                what = " of ".join(key)
                raise InputError(f"{other} and {path} differ in {what} ({expected} and {value}); judge them apart")


def must_agree(row: Row) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything in which rows of one table agree; architecture and recipe only for the same model, the schedule only
    for the same model and strategy."""
    cell, environment = row.cell, row.environment
    yield ("protocol",), cell.protocol
    yield from learned_from(row)
    yield ("device",), environment.device
    yield ("number of processes",), environment.world_size
    yield ("scan backend",), row.scan.backend
    yield ("float32 arithmetic",), row.arithmetic
    if environment.device_kind == "cpu":
        yield ("threads",), environment.threads
    yield from (((f"recipe.{key}", cell.model), value) for key, value in cell.recipe)
    shared = ("order", "budget")  # a strategy of one's own may have its own method
    yield from (((f"fusion.{key}",), value) for key, value in cell.fusion if key in shared)
    yield from (((f"fusion.{key}", cell.strategy), value) for key, value in cell.fusion if key not in shared)
    yield from (((f"architecture.{key}", cell.model), value) for key, value in cell.architecture)
    yield ("schedule", cell.model, cell.strategy), cell.schedule
