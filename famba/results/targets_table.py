"""The files of the time to a target accuracy: targets.csv, a line per training, and tables/targets.md and .tex."""

from famba.results.anchors import line_href
from famba.results.tables import DASH, Column, Entry, Table, csv_of, number, table
from famba.results.targets import COMMON, Line, Targets
from famba.text import model_name, time_unit

_NOTE = (
    "{clock} of training until the first epoch whose top-1 reaches the target, without evaluation and each run's first "
    "step: median over seeds, fastest and slowest. A training that never reaches the target counts as slower than all "
    "that do. Ratio: to the model without fusion with the same seed, median over seeds. Accuracy is measured on the "
    "test set after every epoch{choice}: these times describe these trainings and do not predict new ones."
)
_CHOICE = ", and the target is taken from there as well"


def targets_table(targets: Targets, run: str) -> Table:
    """A line per model and strategy. `run`: what was run."""
    unit, size = time_unit(max((line.slowest_s or line.time_s or 0.0 for line in targets.lines), default=0.0))
    top1 = {target.model: target.top1 for target in targets.targets}
    columns = (
        Column("model"), Column("strategy"), Column("target (%)", "r"), Column("reached", "r"), Column("epochs", "r"),
        Column(f"{targets.clock} ({unit})", "r", "[fastest, slowest]"), Column("ratio", "r"),
    )  # fmt: skip
    lines = [
        [
            Entry(model_name(line.model)),
            Entry(line.strategy, href=line_href(line.model, line.strategy)),
            number(top1[line.model]),
            Entry(f"{line.reached} of {line.n}", line.reached),
            Entry(DASH) if line.epochs is None else Entry(f"{line.epochs:g}", line.epochs),
            _time(line, size),
            number(line.ratio, 3),
        ]
        for line in targets.lines
    ]
    chosen = [f"{model_name(one.model)}: target {one.top1:.2f} %, {one.chosen}." for one in targets.targets]
    taken = any(one.chosen == COMMON for one in targets.targets)
    note = _NOTE.format(clock=targets.clock[:1].upper() + targets.clock[1:], choice=_CHOICE if taken else "")
    return table(
        columns, lines, id="targets", run=run, note=note, caption="Training time until the target",
        smoke=bool(targets.watermark), grouped=True, sentences=[*chosen, *(f"{line}." for line in targets.left_out)],
    )  # fmt: skip


def _time(line: Line, unit_s: float) -> Entry:
    if line.fastest_s is None:
        return Entry(DASH)
    median, fastest, slowest = (
        "never" if seconds is None else f"{seconds / unit_s:.2f}"
        for seconds in (line.time_s, line.fastest_s, line.slowest_s)
    )
    return Entry(median if line.n == 1 else f"{median} [{fastest}, {slowest}]", line.time_s)


def csv(targets: Targets) -> str:
    """A line per training; epoch and seconds are empty where it never reached the target."""
    top1 = {target.model: target.top1 for target in targets.targets}
    return csv_of(
        [
            ["model", "strategy", "seed", "target_percent", "epoch", "train_s", "compared_s"],
            *(
                [line.model, line.strategy, one.seed, top1[line.model], one.epoch, one.train_s, one.compared_s]
                for line in targets.lines
                for one in line.trainings
            ),
        ]
    )
