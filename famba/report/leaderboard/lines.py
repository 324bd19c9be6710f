"""From published rows to the leaderboard's lines, in groups that may be compared.

A line is what one source trained on one machine under one setting, over its seeds. A group has the same data, protocol,
recipe and class of device; accuracy and memory are compared within it. Times are not: of them there are ratios alone,
to the baseline of the same source, machine, model and seed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from famba.config.methods import PLACEMENTS
from famba.flops import row_flops
from famba.report.leaderboard.contribution import PREDICTIONS, labels
from famba.report.leaderboard.shared import Shared
from famba.results import summary
from famba.results.row import Row, grouped
from famba.text import count, one_line

PROTOCOLS = ("paper", "fast", "custom")  # in this order
UNFUSED = "none"
EACH_SEED = "each seed"


class Group(NamedTuple):
    """What rows share whose accuracy may be compared. `data` and `recipe` are digests.

    `published`: the images are a published data set's own, which its name says. `init`: the digest of the initial
    weights, `EACH_SEED` where every seed has its own, "" from scratch.
    """

    protocol: str
    dataset: str
    device_kind: str
    preset: str
    epochs: int
    published: bool
    data: str
    recipe: str
    init: str

    @property
    def device_class(self) -> str:
        return {"cpu": "CPU", "cuda": "CUDA GPU"}[self.device_kind]

    @property
    def data_name(self) -> str:
        return self.dataset if self.published else f"{self.dataset} (images {self.data[:8]})"

    @property
    def title(self) -> str:
        return f"{self.data_name}, {self.device_class}, {self.protocol} protocol, {self.epochs} epochs{self.tuned}"

    @property
    def tuned(self) -> str:
        """Where a training starts, as a part of a title."""
        if not self.init:
            return ""
        return f", from weights {'of each seed' if self.init == EACH_SEED else self.init[:8]}"

    @property
    def id(self) -> str:
        return "group-" + hashlib.sha256(repr(self).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Line:
    """`rows`: by the names of their folders, one for each seed; `repeats`: further rows of these seeds, not counted.

    `numbers`: the line that `famba.results.summary` makes of the rows. `sources`: everybody who contributed them all.
    """

    rows: Mapping[str, Row]
    repeats: Mapping[str, Row]
    sources: tuple[str, ...]
    numbers: Mapping[str, Any]
    labels: tuple[str, ...]

    @property
    def first(self) -> Row:
        return next(iter(self.rows.values()))

    @property
    def id(self) -> str:
        """Of the rows that it has, so that a link to a line leads to these numbers or nowhere."""
        return "line-" + hashlib.sha256("\n".join([*self.sources, *self.rows]).encode()).hexdigest()[:12]

    @property
    def method(self) -> str:
        """The method with its settings; of a file, which code it was."""
        fusion = self.first.cell.fusion
        if not any(self.first.cell.schedule):
            return UNFUSED
        settings = {**fusion.settings, **({"order": fusion.order} if fusion.order != "sequence" else {})}
        code = [] if fusion.code is None else [f"({fusion.code.removeprefix('sha256 ')[:12]})"]
        return one_line(" ".join([fusion.method, *(f"{key}={value}" for key, value in settings.items()), *code]))

    @property
    def placement(self) -> str:
        fusion = self.first.cell.fusion
        if not any(self.first.cell.schedule):
            return UNFUSED
        return fusion.placement or PLACEMENTS.get(fusion.method) or "the method's own"

    @property
    def schedule(self) -> str:
        """Which layers reduce the tokens, and by how many together: with a threshold, at most."""
        schedule = self.first.cell.schedule
        layers = [layer for layer, r in enumerate(schedule) if r]
        if not layers:
            return UNFUSED
        where = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers, {layers[0]}–{layers[-1]}"
        most = "at most " if self.first.cell.fusion.varies else ""
        return f"{where}: {most}{count(sum(schedule), 'token')}"

    @property
    def device(self) -> str:
        environment = self.first.environment
        several = f"{environment.world_size} × " if environment.world_size > 1 else ""
        threads = f", {count(environment.threads, 'thread')}" if environment.device_kind == "cpu" else ""
        return one_line(f"{several}{environment.device}{threads}")


def group_of(row: Row) -> Group:
    """The group of a row."""
    recipe, data = row.cell.recipe, row.data
    # where a checkpoint lay is no part of the recipe; which one it was is
    computed = recipe.model_copy(update={"init": None}).identity
    own = "{seed}" in (recipe.init or "")
    return Group(
        protocol=row.cell.protocol, dataset=data.name, device_kind=row.environment.device_kind, preset=recipe.preset,
        epochs=recipe.epochs, published=data.official and row.cell.data is None,
        data=_digest(data.train_digest, data.test_digest, data.decoder or ""), recipe=_digest(computed),
        init=EACH_SEED if own else row.init.sha256 or "",
    )  # fmt: skip


def groups(shared: Shared) -> dict[Group, list[Line]]:
    """The groups, published protocols first, each with its lines, the most accurate first."""
    by_group: dict[Group, list[Line]] = {}
    every = {name: one.row for name, one in shared.items()}
    for group, names in grouped(shared, lambda name: group_of(every[name])).items():
        lines: dict[tuple[tuple[str, ...], tuple[str, ...]], Line] = {}
        sources = sorted({origin.source for name in names for origin in shared[name].origins})
        for source in sources:
            of_source = {n: every[n] for n in names if any(o.source == source for o in shared[n].origins)}
            for line in _lines(of_source, source, shared):
                same = tuple(line.rows), tuple(line.repeats)
                both = (*lines[same].sources, source) if same in lines else (source,)
                lines[same] = Line(line.rows, line.repeats, both, line.numbers, line.labels)
        by_group[group] = sorted(lines.values(), key=_rank)
    return dict(sorted(by_group.items(), key=lambda item: (PROTOCOLS.index(item[0].protocol), *item[0][1:])))


def _rank(line: Line) -> tuple[Any, ...]:
    return (-line.numbers["top1_last_percent"], line.numbers["step_ratio"] or 1, *line.first.cell.line, line.id)


def _lines(rows: Mapping[str, Row], source: str, shared: Shared) -> list[Line]:
    """Those of one source and group."""
    found = []
    firsts: dict[str, Row] = {}
    lines = [*grouped(rows, lambda name: _setting(rows[name])).values()]
    for names in lines:
        firsts |= _first_of_each_seed({name: rows[name] for name in names})
    for names in lines:
        own = {name: firsts[name] for name in sorted(names, key=lambda n: rows[n].cell.seed) if name in firsts}
        repeats = {name: rows[name] for name in names if name not in own}
        first = next(iter(own.values()))
        others = {} if first.cell.strategy == "baseline" else _baselines(first, firsts)
        numbers = summary.summarise({Path(name): row for name, row in {**own, **others}.items()})[0]
        numbers |= {"forward_flops_per_image": row_flops(first)}
        found.append(Line(own, repeats, (source,), numbers, _labels(own, numbers, shared)))
    return found


def _baselines(row: Row, rows: Mapping[str, Row]) -> dict[str, Row]:
    """What the times of a row and of its other seeds are compared with, those of the same state of the code first."""
    alike = {n: r for n, r in rows.items() if r.cell.strategy == "baseline" and _bench(r) == _bench(row)}
    return dict(sorted(alike.items(), key=lambda item: item[1].environment.git_dirty != row.environment.git_dirty))


def _bench(row: Row) -> tuple[Any, ...]:
    """What a row shares with the baseline that its times are compared with: machine, software of the scan, model."""
    environment = row.environment
    return (
        environment.device, environment.cpu, environment.threads, environment.world_size, row.scan.backend,
        row.arithmetic, row.cell.model, row.cell.architecture,
    )  # fmt: skip


def _setting(row: Row) -> tuple[Any, ...]:
    """What the rows of a line share: all but seed and time."""
    fusion = row.cell.fusion.model_dump_json() if any(row.cell.schedule) else ""
    return (*_bench(row), row.cell.strategy, row.cell.schedule, fusion, row.environment.git_dirty)


def _first_of_each_seed(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Of several trainings of one seed the first that was started: nobody picks the best of them."""
    by_start = sorted(rows.items(), key=lambda item: (item[1].started, item[0]))
    first: dict[int, tuple[str, Row]] = {}
    for name, row in by_start:
        first.setdefault(row.cell.seed, (name, row))
    return dict(first.values())


def _labels(rows: Mapping[str, Row], numbers: Mapping[str, Any], shared: Shared) -> tuple[str, ...]:
    """Of the rows, and of the line that they make."""
    found = [label for name, row in rows.items() for label in labels(row, PREDICTIONS in shared[name].files)]
    commits = {row.environment.git_commit for row in rows.values() if row.environment.git_commit}
    if len(commits) > 1:
        found.append(count(len(commits), "commit"))
    unpaired = any(row.time.step_ratio is None for row in rows.values())
    if unpaired and numbers["step_ratio"] not in (None, 1) and (numbers["wall_to_cpu"] or 0) > summary.SHARED:
        found.append("shared machine")
    return tuple(dict.fromkeys(found))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
