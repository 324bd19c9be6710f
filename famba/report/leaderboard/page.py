"""The leaderboard: published rows as one static page, and its lines as CSV. It judges nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from famba.figures import leaderboard as scatter
from famba.figures.captions import LEADERBOARD
from famba.report import embedded, html, prose
from famba.report.leaderboard.contribution import Contributed
from famba.report.leaderboard.lines import UNFUSED, Group, Line, groups
from famba.report.leaderboard.shared import ROWS, Shared
from famba.results.row import grouped
from famba.results.summary import accuracy_note
from famba.results.tables import DASH, Column, Entry, Table, csv_of, difference, number, table, tokens
from famba.strategies import NAMED
from famba.text import model_name, one_line

CSV = "leaderboard.csv"
FILTERED = ("model", "method", "strategy", "n", "schedule", "placement", "device", "source", "notes")
OF_GROUP = ("data set", "protocol", "device class")  # filters, too; a group has one value of each
_MOST = 40  # values of a column that are still few enough for a filter
_WORDS = ("model", "method", "strategy", "schedule", "placement", "device", "source", "notes", "rows")
_COSTS = {  # measure of a line: the label of its axis, and the size of the unit in the measure's own
    "flops": ("forward_flops_per_image", "forward pass (GFLOP per image)", 1e9),
    "step_ratio": ("step_ratio", "time of a step / baseline's", 1.0),
}


@dataclass(frozen=True)
class Section:
    """A group on the page."""

    group: Group
    lines: Sequence[Line]
    table: Table
    pictures: Sequence[embedded.Picture]

    @property
    def title(self) -> str:
        return self.group.title

    @property
    def filters(self) -> dict[str, str]:
        """The group's own values of `OF_GROUP`."""
        values = (self.group.data_name, self.group.protocol, self.group.device_class)
        return dict(zip(OF_GROUP, values, strict=True))


def sections(shared: Shared) -> list[Section]:
    """The groups with their tables and pictures."""
    found = groups(shared)
    methods = _methods(found.values())
    return [Section(g, lines, _table(g, lines), _pictures(g, lines, methods)) for g, lines in found.items()]


def page(shared: Shared, found: Sequence[Section]) -> str:
    """index.html. The same rows give the same bytes."""
    methods = _methods([section.lines for section in found])
    drawn = [scatter.colours(_points(section.lines, "flops"), methods) for section in found]
    dark = dict.fromkeys(embedded.dark([*colours]) for colours in drawn)
    style = "".join([html.source("report.css"), html.source("leaderboard.css"), *dark])
    script = html.source("report.js") + html.source("leaderboard.js")
    rows = [one.row for one in shared.values()]
    context = {
        "sections": found,
        "rows": rows,
        "lines": sum(len(section.lines) for section in found),
        "filters": _filters(found),
        "days": " to ".join(sorted({min(r.finished[:10] for r in rows), max(r.finished[:10] for r in rows)})),
        "sources": _sources(shared),
        "csv": CSV,
    }
    return html.render("leaderboard.html.j2", style, script, {"pieces": prose.pieces}, context)


def csv(found: Sequence[Section]) -> str:
    """Every line of every group, with exact numbers."""
    body: list[list[object]] = []
    names: list[str] = []
    for section in found:
        for line in section.lines:
            entries = {name: Entry(value) for name, value in section.filters.items()} | _entries(line)
            names = [*entries]
            entries["rows"] = Entry(" ".join(href for _, href in entries["rows"].links))
            body.append([e.text if e.exact is None else f"{e.exact:.6g}" for e in entries.values()])
    return csv_of([names, *body])


def _entries(line: Line) -> dict[str, Entry]:
    """What the table says of a line, by column."""
    made, first = line.numbers, line.first
    peak = made["peak_memory_mib"] if first.memory.device_peak is not None else None  # a host's is mostly libraries
    links = [(f"s{row.cell.seed}", f"{ROWS}/{name}/row.json") for name, row in line.rows.items()]
    repeats = [(f"s{row.cell.seed} again", f"{ROWS}/{name}/row.json") for name, row in line.repeats.items()]
    return {
        "model": Entry(model_name(first.cell.model)),
        "method": Entry(line.method),
        "strategy": Entry(first.cell.strategy),
        "top-1 (%)": number(made["top1_last_percent"], 2, made["top1_last_percent_ci95"]),
        "to baseline (points)": _to_baseline(made),
        "n": Entry(str(made["n"]), made["n"]),
        "rows": Entry(" ".join(line.rows), links=[*links, *repeats]),
        "step time ratio": number(made["step_ratio"], 3, made["step_ratio_ci95"]),
        "tokens seen (%)": number(100 * made["token_share"], 1),
        "tokens": Entry(f"{made['tokens_first']} → {tokens(made['tokens_final'])}", made["tokens_final"]),
        "GFLOP/image": number(made["forward_flops_per_image"] / 1e9, 3),
        "peak memory (MiB)": number(peak, 0),
        "activations (MiB/image)": number(made["saved_activations_mib_per_image"], 2),
        "schedule": Entry(line.schedule),
        "placement": Entry(line.placement),
        "device": Entry(line.device),
        "source": Entry("; ".join(line.sources)),
        "notes": Entry(", ".join(line.labels) or DASH),
    }


def _to_baseline(made: Mapping[str, Any]) -> Entry:
    """Top-1 less that of the baseline of the same source, machine and seed."""
    points, half = made["top1_to_baseline_points"], made["top1_to_baseline_points_ci95"]
    if points is None or made["strategy"] == "baseline":
        return Entry(DASH)
    return difference(points, None if half is None else (points - half, points + half), "{:.2f}".format)


def _table(group: Group, lines: Sequence[Line]) -> Table:
    every = [_entries(line) for line in lines]
    left_out = {"peak memory (MiB)"} if group.device_kind == "cpu" else set()
    names = [name for name in every[0] if name not in left_out]
    columns = [Column(name, "l" if name in _WORDS else "r") for name in names]
    recipe = f"recipe {group.preset} ({group.recipe[:12]})"
    images = f"test images {lines[0].first.data.test_digest[:12]}"
    about = ", ".join([f"{group.device_class}{group.tuned}", f"{group.protocol} protocol", recipe, images])
    return table(
        columns, [[entries[name] for name in names] for entries in every], id=f"{group.id}-lines",
        caption=f"{about}; the most accurate first", note=accuracy_note([line.numbers for line in lines]),
        ids=[line.id for line in lines],
    )  # fmt: skip


def _methods(groups_of_lines: Iterable[Sequence[Line]]) -> list[str]:
    return sorted({line.method for lines in groups_of_lines for line in lines} - {UNFUSED})


def _pictures(group: Group, lines: Sequence[Line], methods: Sequence[str]) -> list[embedded.Picture]:
    """The scatters that have two marks or more."""
    found = []
    for name, (_, label, _) in _COSTS.items():
        points = _points(lines, name)
        if len(points) > 1:
            id_ = f"{group.id}-{name}"
            drawn = Markup(scatter.draw(points, methods, label, id_, LEADERBOARD[name]))
            found.append(embedded.Picture(f"figure-{id_}", LEADERBOARD[name], drawn))
    return found


def _points(lines: Sequence[Line], cost: str) -> list[scatter.Point]:
    measure, label, size = _COSTS[cost]
    schedule = _schedules(lines)
    found = []
    for line in lines:
        made, cell = line.numbers, line.first.cell
        if made[measure] is None:
            continue
        half, top1, top1_half = made.get(f"{measure}_ci95"), made["top1_last_percent"], made["top1_last_percent_ci95"]
        spread = "" if top1_half is None else f" ± {top1_half:.2f}"
        told = [
            one_line(f"{model_name(cell.model)}, {line.method}, {cell.strategy}"),
            f"top-1, last epoch: {top1:.2f}{spread} %",
            f"{label}: {made[measure] / size:.4g}" + ("" if half is None else f" ± {half / size:.4g}"),
            f"n = {made['n']}; {line.device}; {'; '.join(line.sources)}",
        ]
        point = scatter.Point(
            model=cell.model, method=line.method, strategy=schedule[cell.schedule], cost=made[measure] / size,
            top1=top1, cost_half=None if half is None else half / size, top1_half=top1_half, told=told,
            href=f"#{line.id}",
        )  # fmt: skip
        found.append(point)
    return found


def _schedules(lines: Sequence[Line]) -> dict[tuple[int, ...], str]:
    """A name for each schedule: of the strategies that have it the published one, else the shortest.

    One that fuses nothing is the baseline's, whatever its strategy is called: it is drawn like it.
    Where each method has strategies of its own, such as upper_hsa, their schedules are what they have in common.
    """
    names = grouped((line.first.cell for line in lines), lambda cell: cell.schedule)
    return {
        schedule: min((cell.strategy for cell in cells), key=lambda name: (name not in NAMED, len(name), name))
        if any(schedule)
        else "baseline"
        for schedule, cells in names.items()
    }


def _filters(found: Sequence[Section]) -> dict[str, list[str]]:
    """The values to choose from of every column that has few, and more than one."""
    values: dict[str, set[str]] = {name: set() for name in (*OF_GROUP, *FILTERED)}
    for section in found:
        for name, value in section.filters.items():
            values[name].add(value)
        for line in section.lines:
            entries = _entries(line)
            for name in FILTERED:
                values[name].add(entries[name].text)
    return {name: sorted(of) for name, of in values.items() if 1 < len(of) <= _MOST}


def _sources(shared: Shared) -> list[dict[str, Any]]:
    """Who contributed what."""
    by_source = grouped(
        ((origin, one) for one in shared.values() for origin in one.origins), lambda found: found[0].source
    )
    return [_source(name, [one for _, one in found]) for name, found in sorted(by_source.items())]


def _source(name: str, rows: Sequence[Contributed]) -> dict[str, Any]:
    environments: Mapping[str, None] = dict.fromkeys(one_line(one.row.environment.device) for one in rows)
    commits = sorted({one_line(one.row.environment.git_commit or "not recorded")[:12] for one in rows})
    folders = sorted({origin.within for one in rows for origin in one.origins if origin.source == name})
    return {
        "name": name, "rows": len({id(one) for one in rows}), "devices": sorted(environments), "commits": commits,
        "folders": folders,
    }  # fmt: skip
