"""What every chart of the page is drawn from, and what its marks tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from famba.figures import palette
from famba.figures.results import Results
from famba.report.charts import Panel
from famba.results.summary import Line
from famba.text import model_name


@dataclass(frozen=True)
class Figure:
    """Panels under one heading; `legend`: strategies are told apart by colour and marker, not by a label."""

    id: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: bool
    predicted: bool = False
    paper: str | None = None  # what a star stands for


def value(number: float) -> str:
    """A number as the summary has it."""
    return f"{number:.6g}"


class Drawing:
    """Everything that the figures are drawn from: the results and the summary's lines."""

    def __init__(self, results: Results, lines: Sequence[Line]) -> None:
        self.results = results
        self.lines = {(line["model"], line["strategy"]): line for line in lines}
        self.markers = palette.markers(results.strategies)
        self.several = results.several_seeds

    def of(self, model: str) -> list[tuple[int, str, Line]]:
        """Number, name and line of each strategy of a model."""
        there = enumerate(self.results.strategies)
        return [(i, name, self.lines[model, name]) for i, name in there if (model, name) in self.lines]

    def seeds(self, model: str, strategy: str, measure: str) -> list[tuple[int, float]]:
        """Seed and value of every training that has the measure."""
        table = self.results.of(model)
        table = table[table["strategy"] == strategy].dropna(subset=[measure])
        return list(zip(table["seed"].tolist(), table[measure].tolist(), strict=True))

    def span(self, line: Line, measure: str) -> tuple[float, float]:
        """Ends of the 95 % interval of a line's mean; the mean itself for one seed."""
        half = line[f"{measure}_ci95"] or 0.0
        return line[measure] - half, line[measure] + half

    def tip(self, line: Line, *measures: tuple[str, str, float, str]) -> str:
        """The numbers of a line: (measure, name, size of the unit, unit), and its seeds where there are several."""
        told = [f"{model_name(line['model'])}, {line['strategy']}"]
        for measure, name, size, unit in measures:
            if line[measure] is None:
                continue
            half = line[f"{measure}_ci95"]
            spread = "" if half is None else f" ± {value(half / size)}"
            told.append(f"{name}: {value(line[measure] / size)}{spread} {unit}".rstrip())
            if self.several:
                each = self.seeds(line["model"], line["strategy"], measure)
                told.append("  " + ", ".join(f"seed {seed}: {value(v / size)}" for seed, v in each))
        n = line["n"]
        told.append(f"n = {n}, 95 % interval" if self.several and n > 1 else "one seed: no interval")
        return "\n".join(told)
