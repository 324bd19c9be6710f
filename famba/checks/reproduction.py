"""Two results of one training, field by field: what must agree, within what, and what cannot be compared.

On a CPU a training is deterministic: the same machine, threads, packages and code give the same bits. Where any of
these differ, and on a GPU, accuracies and losses may differ by the noise floor: they must be no farther apart than two
seeds are. Tested two-sided at 1 % (Hahn 1969), corrected for the number of metrics, and for each curve for the number
of its epochs (Holm 1979).
"""

import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from famba import data, ops
from famba.checks.gate import ALPHA
from famba.config import Cell
from famba.config.validation import flat
from famba.errors import InputError
from famba.ops.precision import DTYPES
from famba.results.epochs import read_epochs
from famba.results.row import Data, Environment, Row, read_row
from famba.results.statistics import Spread, holm, pooled_spread, welch_less
from famba.results.summary import learned_from
from famba.system.device import environment, pick_device
from famba.training.initial import identify

FieldVerdict = Literal["identical", "within the noise floor", "differs", "not comparable"]
Floor = Mapping[str, Sequence[Spread]]  # of each number of a result; of a curve, per epoch

METRICS = (
    "metrics.train_loss",
    *(f"metrics.{which}.{k}" for which in ("last", "best", "ema_last", "ema_best") for k in ("top1", "top5")),
)
CURVES = tuple(f"epochs.{name}" for name in ("train_loss", "top1", "top5", "ema_top1", "ema_top5"))
# settings that say where to run and not what; what they came to is in the row's environment and scan
_WHERE = ("experiment", "device", "threads", "scan", "processes", "nodes")
# the same wherever the training ran
_ALWAYS = ("version", "id", "watermark", "cell.", "init.", "arithmetic.", "tokens.",
           "cost.parameters", "cost.forward_flops", "data.", "metrics.images_seen", "epochs.")  # fmt: skip
# the form that the data came in: a package of another version, an archive or a folder, the order of the records; what
# made pixels of an image folder's files, and where it is
_FORM = ("data.source", "data.sha256", "data.bytes", "data.official", "data.order_digest", "data.decoder",
         "cell.data.manifest", "cell.data.folder")  # fmt: skip
_BUT = (*(f"cell.{name}" for name in _WHERE), *_FORM)
# the same as long as everything is: which epoch was best, and what a backend keeps for the backward pass
_ALL_ELSE_EQUAL = ("metrics.best.epoch", "metrics.ema_best.epoch", "memory.saved_activations")
_RECOUNTED = ("cost.forward_flops",)  # and this of a method that acts late: older code counted other operations
_BY_WEIGHTS = ("tokens.measured", "tokens.range", "cost.forward_flops")  # so are these, where a threshold decides


@dataclass(frozen=True)
class Result:
    """A row and the metrics per epoch that stand beside it."""

    path: Path
    row: Row
    epochs: list[dict[str, float]]


@dataclass(frozen=True)
class Field:
    """One comparison. Of a curve: its values at `epoch`, the last, or the one in which they differ most."""

    name: str
    recorded: Any
    now: Any
    verdict: FieldVerdict
    epoch: int | None = None


@dataclass(frozen=True)
class Reproduction:
    """All fields of two results, and what they were compared with: bit for bit if `conditions` is empty."""

    fields: tuple[Field, ...]
    conditions: tuple[str, ...]
    floor: Floor


def read_result(path: Path) -> Result:
    """Read a row and the epochs.csv beside it, which has all of its epochs. Raises InputError."""
    row = read_row(path)
    return Result(path, row, read_epochs(path.with_name("epochs.csv"), row.cell.recipe.epochs))


def conditions(recorded: Row, environment: Environment, backend: str, found: Data | data.Identity) -> list[str]:
    """Why other bits may come out than when a row was made, a phrase each; empty if the same must.

    found: the data that is here.
    """
    then, now = recorded.environment.model_dump(), environment.model_dump()
    keys = ("device", "cpu", "threads", "world_size", "python", "lock_sha256", "container_sha256", "git_commit")
    packages = dict.fromkeys([*then["packages"], *now["packages"]])
    pairs = [
        ("scan backend", recorded.scan.backend, backend),
        ("order of the images", recorded.data.order_digest, found.order_digest),
        ("decoder", recorded.data.decoder, found.decoder),
        *((key, then[key], now[key]) for key in keys),
        *((name, then["packages"].get(name), now["packages"].get(name)) for name in packages),
    ]
    why = [f"{what} was {shown(a)}, is {shown(b)}" for what, a, b in pairs if a != b]
    if "cuda" in (then["device_kind"], now["device_kind"]):
        why.append("a GPU adds up in no fixed order")
    if then["git_commit"] is None or then["git_dirty"] is not False or now["git_dirty"] is not False:
        why.append("the code may differ: it was, or is, not exactly a commit's")
    return why


def noise_floor(results: Sequence[Result], of: Result) -> dict[str, list[Spread]]:
    """Spread between seeds of each number of `of`, pooled over the strategies of its model; empty without two seeds.

    Results of other settings, images or initial weights are left out. Of several results of one strategy and seed,
    which scatter less than seeds do, the first counts.
    """
    groups: dict[str, dict[int, Result]] = defaultdict(dict)
    known = dict(learned_from(of.row))
    for result in results:
        same = all(known.get(key, value) == value for key, value in learned_from(result.row))
        if same and _but_strategy_and_seed(result.row.cell) == _but_strategy_and_seed(of.row.cell):
            groups[result.row.cell.strategy].setdefault(result.row.cell.seed, result)
    seeds = [[_numbers(result) for result in group.values()] for group in groups.values() if len(group) > 1]
    if not seeds:
        return {}
    return {
        name: [pooled_spread([[numbers[name][i] for numbers in group] for group in seeds]) for i in range(len(values))]
        for name, values in _numbers(of).items()
    }


def compare(recorded: Result, again: Result, floor: Floor) -> Reproduction:
    """Compare two results of one training.

    Raises InputError if settings or data differ: then they are results of two.
    """
    _require_one_training(recorded, again)
    changed = conditions(recorded.row, again.row.environment, again.row.scan.backend, again.row.data)
    then, now = _leaves(recorded), _leaves(again)
    of_weights: Sequence[str] = () if recorded.row.tokens.range is None else _BY_WEIGHTS
    if recorded.row.cell.fusion.late:
        of_weights = _RECOUNTED
    others = [
        _exact(name, then.get(name), now.get(name), not changed, of_weights)
        for name in then | now
        if name not in METRICS
    ]
    chance = _up_to_chance(recorded, again, {} if not changed else floor)
    return Reproduction((*chance, *others), tuple(changed), floor)


def _require_one_training(recorded: Result, again: Result) -> None:
    then, now = _leaves(recorded), _leaves(again)
    for name in then | now:
        if name.startswith(("cell.", "data.")) and name not in _BUT and then.get(name) != now.get(name):
            raise InputError(
                f"{recorded.path} and {again.path} differ in {name} ({shown(then.get(name))} and "
                f"{shown(now.get(name))}): not two runs of one training"
            )


def _exact(name: str, then: Any, now: Any, all_else_equal: bool, of_weights: Sequence[str]) -> Field:
    """A field in which chance has no part, but for those `of_weights`, which are the same as long as everything is."""
    if then == now:
        return Field(name, then, now, "identical")
    must = name.startswith(_ALWAYS) and name not in (*_BUT, *of_weights)
    must = must or (all_else_equal and name in (*_ALL_ELSE_EQUAL, *of_weights))
    verdict: FieldVerdict = "differs" if must else "not comparable"
    if name.startswith("epochs."):
        epoch = next(i for i, (a, b) in enumerate(zip(then, now, strict=True)) if a != b)
        return Field(name, then[epoch], now[epoch], verdict, epoch)
    return Field(name, then, now, verdict)


def _up_to_chance(recorded: Result, again: Result, floor: Floor) -> list[Field]:
    """Accuracies and losses, at the end and after every epoch; without a floor, what is not identical differs."""
    then, now = _numbers(recorded), _numbers(again)
    fields = []
    for family in (METRICS, *((curve,) for curve in CURVES)):
        keys = [(name, i) for name in family for i in range(len(then[name]))]
        p = holm(np.array([_p_value(then[name][i], now[name][i], floor.get(name, [])[i:]) for name, i in keys]))
        of = dict(zip(keys, p.tolist(), strict=True))
        for name in family:
            values, others = then[name], now[name]
            worst = min(range(len(values)), key=lambda i: (of[name, i], -abs(values[i] - others[i]), -i))
            verdict: FieldVerdict = "within the noise floor" if of[name, worst] >= ALPHA else "differs"
            if values == others:
                verdict = "identical"
            epoch = worst if name in CURVES else None
            fields.append(Field(name, values[worst], others[worst], verdict, epoch))
    return fields


def _p_value(a: float, b: float, spread: Sequence[Spread]) -> float:
    """Two-sided: that trainings which scatter like this are so far apart, or farther. Unknown scatter: not at all."""
    if a == b:
        return 1.0
    if not spread:
        return 0.0
    below = welch_less([b], [a], Spread(math.nan, 0), spread[0])
    return 2 * min(below, 1 - below)


def _but_strategy_and_seed(cell: Cell) -> dict[str, Any]:
    """What is trained, less strategy and seed."""
    return cell.model_dump(exclude={"strategy", "schedule", "seed", *_WHERE})


def _numbers(result: Result) -> dict[str, list[float]]:
    """All that chance has a part in: one number of each metric, a number per epoch of each curve."""
    leaves = _leaves(result)
    curves = {name: [epoch[name.removeprefix("epochs.")] for epoch in result.epochs] for name in CURVES}
    return {**{name: [leaves[name]] for name in METRICS}, **curves}


def _leaves(result: Result) -> dict[str, Any]:
    """Every field of a row by its dotted name, and the two columns of epochs.csv that leave nothing to chance."""
    exact = {f"epochs.{name}": [epoch[name] for epoch in result.epochs] for name in ("epoch", "lr")}
    return {**flat(result.row.model_dump(mode="json")), **exact}


def shown(value: Any) -> str:
    """A value as a table shows it: a dash for none, six digits, no more than forty characters."""
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) in (40, 64) and set(text) <= set("0123456789abcdef"):  # a commit, a sha256
        return text[:12]
    return text if len(text) <= 40 else text[:37] + "..."


def train_again(recorded: Result, folder: Path, data_root: Path) -> Result:
    """Run `famba train` on a row's cell, with the kind of device, threads, processes and scan backend that it names.

    Raises InputError where this cannot be done here: no such device or backend, several nodes, other data. A training
    that fails has said why, and ends the program with its own exit status.
    """
    row, path, there = recorded.row, recorded.path, recorded.row.environment
    if there.device_kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{path}: made on a GPU ({there.device}), and torch {torch.__version__} sees none here; train it where "
            "there is one, or compare with a row that was: --with ROW"
        )
    if row.init.sha256 and row.cell.init is None:
        raise InputError(
            f"{path}: its training started from {row.init.weights} (sha256 {row.init.sha256}); train it again with "
            "famba train --init, then compare: --with ROW"
        )
    if row.cell.init is not None and (start := identify(row.cell.init)) != row.init:
        raise InputError(
            f"{path}: its training started from {row.init.weights} with sha256 {row.init.sha256}, and what is at "
            f"{row.cell.init} now has {start.sha256}"
        )
    if row.cell.nodes > 1:
        raise InputError(
            f"{path}: made on {row.cell.nodes} nodes together; train it there by the pipeline, then compare: --with ROW"
        )
    device = pick_device(there.device_kind)
    ops.choose(device, DTYPES[row.cell.recipe.precision], row.scan.backend)
    found = data.verify(row.data.name, data_root, row.cell.data)
    for split in ("train", "test"):
        then, now = (getattr(of, f"{split}_digest") for of in (row.data, found))
        if then != now:
            raise InputError(
                f"{path}: made from {row.data.name} with {split} digest {then}, and what is here has {now}"
            )
    here = environment(device, there.world_size).model_copy(update={"threads": there.threads})
    warn(row.id, conditions(row, here, row.scan.backend, found))
    # what was left open then is not now
    settings = {"device": there.device_kind, "scan": row.scan.backend, "processes": there.world_size}
    cell = row.cell.model_copy(update={**settings, "threads": there.threads})
    again = folder / "row.json"
    command = ["train", "--force", "--cell", cell.model_dump_json(), "--out", str(again), "--data", str(data_root)]
    done = subprocess.run([sys.executable, "-m", "famba", *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return read_result(again)


def warn(row: str, changed: Sequence[str]) -> None:
    for phrase in changed:
        print(f"{row}: bits may differ: {phrase}", file=sys.stderr)
