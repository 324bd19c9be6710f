"""The paper's tables for the page, Markdown, LaTeX and CSV: published beside measured, with the difference."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from famba.claims.cells import DEVICE, GPUS, IMAGES_PER_GPU
from famba.claims.paper_tables import QUANTITIES, PaperTable
from famba.results.anchors import line_href
from famba.results.row import Row
from famba.results.tables import DASH, SMALL, Column, Entry, Table, csv_of, difference, slug, table
from famba.text import SMOKE_NOTE, model_name

_TITLES = {1: "fusion strategies", 2: "starting layer", 3: "tokens per layer"}


class _Look(NamedTuple):
    """How a quantity is called and written: measured, and with the decimals that the paper prints."""

    head: str
    measured: Callable[[float], str]
    printed: Callable[[float], str]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


_LOOKS = {
    "top1": _Look("top-1 (%)", "{:.2f}".format, "{:.1f}".format),
    "top5": _Look("top-5 (%)", "{:.2f}".format, "{:.1f}".format),
    "time": _Look("time (h:mm:ss)", _clock, _clock),
    "memory": _Look("peak memory (MiB)", "{:,.0f}".format, "{:,.0f}".format),
}
Filled = tuple[Column, Sequence[Entry]]  # with an entry per line
_CSV = (
    "table", "recipe", "model", "strategy", "tokens_per_layer", "starting_layer", "quantity", "unit", "published",
    "measured", "n", "difference", "difference_low", "difference_high",
)  # fmt: skip


def title(found: PaperTable) -> str:
    """The heading of a table."""
    which = f"Table {found.table}" if found.published else f"In the layout of Table {found.table}"
    recipe = f"recipe {found.recipe}" if found.recipe != "custom" else "custom recipe"
    return f"{which} of the paper: {_TITLES[found.table]}, {recipe}"


def tables(found: Sequence[PaperTable], rows: Sequence[Row], accuracy: str, shared: bool) -> list[Table]:
    """The tables as the page shows them. `shared`: whether others used the machine, too."""
    return [_table(one, rows, accuracy, shared) for one in found]


def as_csv(found: Sequence[PaperTable]) -> str:
    """Every number of all tables, one a line, in the unit that stands beside it."""
    return csv_of([_CSV, *(line for one in found for line in _exact(one))])


def _table(found: PaperTable, rows: Sequence[Row], accuracy: str, shared: bool) -> Table:
    columns = [*_settings(found), *(filled for quantity in QUANTITIES for filled in _columns(found, quantity))]
    return table(
        [column for column, _ in columns], zip(*(entries for _, entries in columns), strict=True),
        id=f"paper-table-{found.table}-{slug(found.recipe)}", caption=title(found),
        note=_note(found, rows, accuracy, shared), size=SMALL,
    )  # fmt: skip


def _settings(found: PaperTable) -> Iterator[Filled]:
    """What was trained, in the order of the paper's columns, and how often."""
    lines = found.lines
    if found.table == 1 or len({line.model for line in lines}) > 1:
        yield Column("model"), [Entry(model_name(line.model)) for line in lines]
    if found.table == 1:
        yield Column("strategy"), [Entry("none" if line.strategy == "baseline" else line.strategy) for line in lines]
    else:
        own = ("starting layer", [line.start for line in lines]), ("tokens per layer", [line.r for line in lines])
        for name, values in own if found.table == 2 else own[::-1]:
            yield Column(name, "r"), [Entry("no fusion" if v is None else f"{v:.3g}", v) for v in values]
    yield Column("n", "r"), [Entry(str(line.line["n"]), line.line["n"]) if line.line else Entry(DASH) for line in lines]


def _columns(found: PaperTable, quantity: str) -> Iterator[Filled]:
    """Published, measured and their difference; the last where the two are of the same conditions."""
    lines, look = found.lines, _LOOKS[quantity]
    numbers, name = [line.numbers[quantity] for line in lines], look.head
    if found.published:
        yield Column(f"{name}, published", "r"), [_entry(n.published, look.printed) for n in numbers]
        name = "measured"
    links = [line_href(line.own, line.line["strategy"]) if line.line else None for line in lines]
    shown = [_entry(n.measured, look.measured, href) for n, href in zip(numbers, links, strict=True)]
    yield Column(name, "r"), shown
    if found.published and _subtracted(found, quantity):
        yield Column("difference", "r"), [difference(n.difference, n.interval, look.measured) for n in numbers]


def _entry(value: float | None, shown: Callable[[float], str], href: str | None = None) -> Entry:
    return Entry(DASH if value is None else shown(value), value, href)


def _subtracted(found: PaperTable, quantity: str) -> bool:
    return any(line.numbers[quantity].difference is not None for line in found.lines)


def _note(found: PaperTable, rows: Sequence[Row], accuracy: str, shared: bool) -> str:
    """How to read a table, and why its published numbers are left out where they are."""
    row = rows[0]
    epoch = "best epoch on the test set, as the paper's" if accuracy == "best" else "last epoch"
    notes = [f"Accuracy: {epoch}. Time: the released training loop, which evaluates no moving average."]
    if shared:
        notes.append("Other work ran on the machine and is part of these wall-clock times.")
    if row.memory.device_peak is None:
        notes.append("Memory: the resident set of the process, interpreter and libraries included.")
    if found.table > 1 and any(line.r is not None and line.r % 1 for line in found.lines):
        notes.append("Tokens per layer: the mean, where layers differ by one.")
    if not found.published:
        why = SMOKE_NOTE if row.watermark else "these rows are not of the published experiment"
        return " ".join([*notes, f"The paper's numbers are left out ({why})."])
    notes.append(
        "Difference: measured less published, with the 95 % interval of the measured mean over n seeds (Student t; "
        "none of n < 3). The published number is one training, whose spread is not known."
    )
    if not _subtracted(found, "time"):
        notes.append(
            f"Hours of two machines are not subtracted: the released scripts use {GPUS} × {DEVICE} (the paper does not "
            f"give the number), these rows {row.environment.world_size} × {row.environment.device}."
        )
    if not _subtracted(found, "memory"):
        notes.append(
            f"Memory is subtracted only where a GPU holds {IMAGES_PER_GPU} images, as in the released scripts."
        )
    return " ".join(notes)


def _exact(found: PaperTable) -> Iterator[list[object]]:
    for line in found.lines:
        for quantity, unit in QUANTITIES.items():
            number = line.numbers[quantity]
            low, high = number.interval or (None, None)
            values = (number.published, number.measured, line.line and line.line["n"], number.difference, low, high)
            where = (found.table, found.recipe, line.model, line.strategy, line.r, line.start, quantity, unit)
            yield ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in (*where, *values)]
