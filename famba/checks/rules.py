"""The written rules of a result row, as MLPerf's compliance checker has for its logs (mlcommons/logging).

A rule is a function of a row and what stands beside it; its docstring is the rule, and `famba check --help` prints it.
It returns what breaks it, None if nothing does. It raises `NotApplicable` where it asks nothing of such a row, and
`Absent` where the file that it is about was left out: evidence is often the rows alone.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from famba import files
from famba.checks.weights import without_tensors
from famba.config.protocol import FREE_OF, deviation
from famba.errors import InputError
from famba.results import predictions, tokens
from famba.results.epochs import read_epochs
from famba.results.predictions import read_predictions
from famba.results.row import Row
from famba.results.tokens import read_tokens
from famba.strategies import tokens_per_layer

_RATE_TOLERANCE = 0.1  # data waits and logging between steps belong to the training time, not to a step
_FLOAT32_MAX = 3.4028235e38


RuleVerdict = Literal["ok", "broken", "not applicable", "absent"]


class NotApplicable(Exception):
    """The rule asks nothing of this row."""

    verdict: RuleVerdict = "not applicable"


class Absent(Exception):
    """None of the rows that were given has the file that the rule is about."""

    verdict: RuleVerdict = "absent"


@dataclass(frozen=True)
class Applied:
    """A rule applied to a row."""

    rule: str
    row: str
    verdict: RuleVerdict
    detail: str = ""


@dataclass(frozen=True)
class Beside:
    """A row with its file and the rows that it was given with."""

    path: Path
    row: Row
    rows: Mapping[Path, Row]

    @property
    def formal(self) -> bool:
        """Whether the row claims to be of a published protocol."""
        return self.row.cell.protocol in FREE_OF

    def only_formal(self) -> None:
        if not self.formal:
            raise NotApplicable

    def file(self, name: str) -> Path:
        """The file of that name beside the row. Raises InputError where other rows have one, else Absent."""
        path = self.path.with_name(name)
        if path.exists():
            return path
        if any(other.with_name(name).exists() for other in self.rows):
            raise InputError(f"{path}: not there, and another row has its own; train the cell again")
        raise Absent


def seed(at: Beside) -> str | None:
    """A fused cell has the unfused one of the same model and seed beside it, and a baseline every other strategy, with
    its seed."""
    cell = at.row.cell
    there = {(r.cell.strategy, r.cell.seed) for r in at.rows.values() if r.cell.model == cell.model}
    wanted = {"baseline"} if cell.strategy != "baseline" else {name for name, _ in there}
    missing = sorted(name for name in wanted if (name, cell.seed) not in there)
    return f"seed {cell.seed} has no row of {', '.join(missing)}" if missing else None


def trace(at: Beside) -> str | None:
    """The tokens measured at every layer are the schedule's, recomputed; with a threshold, no image has fewer."""
    cell, architecture = at.row.cell, at.row.cell.architecture
    after = tokens_per_layer(cell.schedule, architecture.tokens, architecture.cls_index)
    expected = tokens_per_layer(cell.mixed, architecture.tokens, architecture.cls_index)[:-1] + after[-1:]
    measured, ends = at.row.tokens.measured, at.row.tokens.range
    if ends is not None:
        least = tuple(least for least, _ in ends)
        below = any(found < bound for found, bound in zip(least, expected, strict=True))
        return f"an image has {least}, the schedule leaves {expected} at least" if below else None
    return None if measured == expected else f"measured {measured}, the schedule gives {expected}"


def data(at: Beside) -> str | None:
    """A row of a published protocol is of the official files, by content."""
    at.only_formal()
    return None if at.row.data.official else f"{at.row.data.source} is not the official {at.row.data.name}"


def protocol(at: Beside) -> str | None:
    """Data set, recipe, architecture, fusion and schedule are the protocol's; micro_batch, eval_batch and workers are
    free, and under `fast` precision, augmentation and cuda_graphs."""
    at.only_formal()
    return deviation(at.row.cell)


def scratch(at: Beside) -> str | None:
    """A row of a published protocol is of a training from scratch."""
    at.only_formal()
    init = at.row.init
    return f"started from {init.weights} (sha256 {init.sha256})" if init.sha256 else None


def float32(at: Beside) -> str | None:
    """A row of a published protocol multiplies float32 matrices in full float32: no TF32, no bfloat16 in its place."""
    at.only_formal()
    arithmetic = at.row.arithmetic
    if arithmetic.float32_matmul != "highest":
        return f"matmul precision {arithmetic.float32_matmul}, the protocol's is highest"
    return "TF32 was allowed" if arithmetic.tf32 else None


def exclusive(at: Beside) -> str | None:
    """Nothing else ran on the GPU: otherwise time and peak memory are not the training's alone."""
    if at.row.environment.device_kind != "cuda":
        raise NotApplicable
    others = at.row.environment.other_processes
    if others is None:
        return "the driver did not report whether other processes used the GPU"
    return f"{others} other processes used the GPU" if others else None


def finite(at: Beside) -> str | None:
    """The trained weights are finite: the largest magnitude of one is a float32."""
    largest = at.row.metrics.largest_weight
    return None if largest <= _FLOAT32_MAX else f"the largest weight is {largest:.3g}, beyond float32"


def warm_up(at: Beside) -> str | None:
    """The first step of each run is timed apart, and the throughput leaves it out."""
    time, row = at.row.time, at.row
    if not 0 < time.warmup < time.train:
        return f"warm-up {time.warmup:.3g} s of {time.train:.3g} s of training"
    images = row.metrics.images_seen - time.runs * row.cell.recipe.global_batch
    if images <= 0:
        return None  # one step in all: there is nothing else to time
    rate = images / (time.train - time.warmup)
    if not math.isclose(rate, time.images_per_s, rel_tol=_RATE_TOLERANCE):
        return f"{time.images_per_s:.4g} images/s, but {rate:.4g} by images and time after the warm-up"
    return None


def curve(at: Beside) -> str | None:
    """epochs.csv stands beside the row, has every epoch, and ends in the row's accuracy."""
    path = at.path.with_name("epochs.csv")
    numbers = read_epochs(path)
    if len(numbers) != at.row.cell.recipe.epochs:
        return f"{path.name} has {len(numbers)} epochs of {at.row.cell.recipe.epochs}"
    if not math.isclose(numbers[-1]["top1"], at.row.metrics.last.top1, rel_tol=1e-4):
        return f"{path.name} ends at {numbers[-1]['top1']} %, the row at {at.row.metrics.last.top1} %"
    return None


def predicted(at: Beside) -> str | None:
    """predictions.npz beside the row is intact, of the row's test images, and gives its top-1 and top-5. It may be
    absent beside all rows, as tokens.npz and weights.pt may."""
    read_predictions(at.file(predictions.NAME), at.row)
    return None


def fused(at: Beside) -> str | None:
    """tokens.npz beside the row is intact, and its example images have the row's tokens after every layer."""
    read_tokens(at.file(tokens.NAME), at.row)
    return None


def weights(at: Beside) -> str | None:
    """weights.pt beside the row is intact, of the row's cell and data, and ends in its accuracy."""
    path = at.file("weights.pt")
    if reason := files.flaw(path):
        return f"{path}: cannot read the weights ({reason}); train the cell again"
    try:
        state = without_tensors(path)
        cell, data, last = json.loads(state["cell"]), state["data"], state["history"]["epochs"][-1]
        accuracy = last["epoch"], last["top1"], last["top5"]
    except Exception as error:  # a pickle raises whatever it holds
        return f"{path}: these are no weights of a training ({type(error).__name__}); train the cell again"
    row, digests = at.row, at.row.data
    wanted = row.metrics.last.epoch, row.metrics.last.top1, row.metrics.last.top5
    sequence = f"{digests.train_digest} {digests.test_digest} {digests.order_digest}"  # as data.Identity.sequence
    for what, found, expected in (
        ("another cell", cell, row.cell.model_dump(mode="json")),
        ("other data", data, sequence),
        ("another accuracy", accuracy, wanted),
    ):
        if found != expected:
            return f"{path}: weights of {what} than row {row.id}'s; train the cell again"
    return None


def clean_tree(at: Beside) -> str | None:
    """A row of a published protocol was made by a commit, with no changes on top of it."""
    at.only_formal()
    environment = at.row.environment
    if environment.git_commit is None or environment.git_dirty is None:
        return "no commit is recorded"
    return f"made with changes on top of {environment.git_commit[:12]}" if environment.git_dirty else None


def container(at: Beside) -> str | None:
    """A row of a published protocol names the container image and the lock file it was made with, by sha256."""
    at.only_formal()
    environment = at.row.environment
    missing = [name for name in ("container_sha256", "lock_sha256") if getattr(environment, name) is None]
    return f"no {' and no '.join(missing)}" if missing else None


_ALL = (
    seed, trace, data, protocol, scratch, float32, exclusive, finite, warm_up, curve, predicted, fused, weights,
    clean_tree, container,
)  # fmt: skip
RULES: dict[str, Callable[[Beside], str | None]] = {rule.__name__: rule for rule in _ALL}


def apply(rows: Mapping[Path, Row]) -> list[Applied]:
    """Every rule on every row."""
    found = []
    for name, rule in RULES.items():
        for path, row in rows.items():
            verdict: RuleVerdict
            try:
                detail = rule(Beside(path, row, rows)) or ""
                verdict = "broken" if detail else "ok"
            except (NotApplicable, Absent) as nothing:
                verdict, detail = nothing.verdict, ""
            except InputError as error:  # of a file beside the row
                verdict, detail = "broken", str(error)
            found.append(Applied(name, row.id, verdict, detail))
    return found


def written() -> str:
    """The rules in words, a paragraph each."""
    return "\n".join(f"  {name:<11} {' '.join((rule.__doc__ or '').split())}" for name, rule in RULES.items())
