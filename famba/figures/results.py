"""What the figures are drawn from: measures per seed, epochs, and the published numbers that may stand beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from famba.claims import ledger
from famba.claims.digest import digest
from famba.claims.entries import Published
from famba.claims.paper_tables import PaperTable, comparable, paper_tables
from famba.config.protocol import published_model
from famba.figures import palette
from famba.figures.look import FAMBAS, Look
from famba.results import summary
from famba.results.epochs import read_epochs
from famba.results.row import Row
from famba.results.statistics import MIN_INTERVAL, accuracy_error, interval
from famba.text import model_name, time_unit


@dataclass(frozen=True)
class Measure:
    """A column of `Results.seeds`, what it is called, and the unit that it is shown in. `size`: of the unit in the
    column's own; `digits`: decimals of a printed value."""

    column: str
    name: str
    unit: str = ""
    size: float = 1.0
    digits: int = 2

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Results:
    """Rows in a form to draw.

    `seeds`: a line per row with `model`, `strategy`, `seed`, `token_share` and every measure and ratio of
    `famba.results.summary`. `epochs`: epochs.csv of all rows, with `model` and `strategy`. `published`: by model,
    numbers that may stand beside its rows. `tables`: the paper's tables that the rows speak about. `digest`: of the
    rows and the ledger. `look`: other names and colours than famba's.
    """

    rows: Mapping[Path, Row]
    seeds: pd.DataFrame
    epochs: pd.DataFrame
    published: Mapping[str, Sequence[Published]]
    tables: Sequence[PaperTable]
    digest: str
    models: Sequence[str]
    strategies: Sequence[str]
    look: Look = FAMBAS

    @property
    def colours(self) -> dict[str, str]:
        """By strategy."""
        return palette.colours(self.strategies) | self.look.of_strategies("colour")

    @property
    def markers(self) -> dict[str, str]:
        """By strategy."""
        return palette.markers(self.strategies) | self.look.of_strategies("marker")

    def label(self, strategy: str) -> str:
        """What a strategy is called."""
        return self.look.of_strategies("label").get(strategy, strategy)

    def model_label(self, model: str) -> str:
        """What a model is called."""
        look = self.look.models.get(model)
        return look.label if look else model_name(model)

    @property
    def smoke(self) -> bool:
        return next(iter(self.rows.values())).watermark is not None

    @property
    def several_seeds(self) -> bool:
        return self.most_seeds > 1

    @property
    def most_seeds(self) -> int:
        """Of a model and strategy."""
        return int(self.seeds.groupby(["model", "strategy"]).size().max())

    @property
    def test_set(self) -> str:
        """How far an accuracy may be off by the chance of which images are in the test set."""
        images = next(iter(self.rows.values())).data.test
        error = max(accuracy_error(top1, images) for top1 in self.seeds["top1_last_percent"])
        return f"Test set's own error: ± {error:.1f} points at most ({images:,} images; binomial, 95 %)."

    def marks(self, explained: str) -> str:
        """How to read the marks, `explained` for means with their intervals; why there are none of too few seeds."""
        n = self.most_seeds
        return explained if n >= MIN_INTERVAL else "One seed: no interval." if n == 1 else f"n = {n}: no interval."

    @property
    def thresholds(self) -> list[str]:
        """What a reader of numbers of tokens must know of strategies whose tokens a threshold decides; none without."""
        varied = dict.fromkeys(r.cell.strategy for r in self.rows.values() if r.tokens.range is not None)
        if not varied:
            return []
        names = ", ".join(map(self.label, varied))
        which = " of the first seed" if self.several_seeds else ""
        return [f"A threshold decides in {names}: means over the test images{which}, and the schedule is a bound."]

    @property
    def memory_kind(self) -> str:
        return summary.memory_kind(next(iter(self.rows.values())))

    @property
    def time(self) -> Measure:
        """The time that trainings are compared by: on a CPU its own, whatever else ran there."""
        column, name = ("cpu_s", "CPU time of training") if self._on_cpu else ("train_s", "training time")
        return Measure(column, name, *time_unit(float(self.seeds[column].max())))

    @property
    def step_ratio(self) -> Measure:
        """The time of a step, relative to the baseline's."""
        return Measure("step_ratio", f"{'CPU time' if self._on_cpu else 'time'} of a step / baseline's", digits=3)

    @property
    def _on_cpu(self) -> bool:
        return next(iter(self.rows.values())).environment.device_kind == "cpu"

    def first(self, model: str) -> dict[str, Path]:
        """Of each strategy of a model, in the strategies' order, the row of its first seed."""
        of = {r.cell.strategy: path for path, r in reversed([*self.rows.items()]) if r.cell.model == model}
        return {name: of[name] for name in self.strategies if name in of}

    def of(self, model: str) -> pd.DataFrame:
        """The seeds of one model."""
        return self.seeds[self.seeds["model"] == model]

    def values(self, model: str, strategy: str, measure: Measure) -> pd.Series:
        """A measure in its unit by seed, of the seeds that have it."""
        seeds = self.of(model)
        return seeds[seeds["strategy"] == strategy].set_index("seed")[measure.column].dropna() / measure.size

    def step(self, column: str) -> float:
        """What one of the test images is of a measure, in the column's unit; 0 of all but accuracies."""
        return summary.step_of(column, next(iter(self.rows.values())).data.test)

    def tooltip(self, model: str, strategy: str, *measures: Measure) -> list[str]:
        """A strategy's numbers, line by line: the mean of each measure with its interval, and every seed's."""
        lines, seeds = [f"{self.model_label(model)}, {self.label(strategy)}"], self.of(model)
        for measure in measures:
            values = self.values(model, strategy, measure)
            if values.empty:
                continue
            half = interval(values.tolist(), self.step(measure.column) / measure.size)
            spread = "" if half is None else f" ± {half:.6g}"
            lines.append(f"{measure.name}: {values.mean():.6g}{spread} {measure.unit}".rstrip())
            if self.several_seeds:
                lines.append(", ".join(f"seed {seed}: {value:.6g}" for seed, value in values.items()))
        n = int((seeds["strategy"] == strategy).sum())
        return [*lines, f"n = {n}{', 95 %' if n >= MIN_INTERVAL else ': no'} interval"]


def read_results(paths: Sequence[Path], claims: Path, look: Look = FAMBAS) -> Results:
    """Read rows, the epochs.csv beside each and the published numbers. Raises InputError."""
    rows = summary.read_rows(paths)
    seeds = [
        {
            "model": row.cell.model, "strategy": row.cell.strategy, "seed": row.cell.seed,
            "token_share": summary.token_share(row), **summary.measures(row), **summary.ratios(row, rows),
        }
        for row in rows.values()
    ]  # fmt: skip
    epochs = [
        pd.DataFrame(read_epochs(path.with_name("epochs.csv"), row.cell.recipe.epochs)).assign(
            model=row.cell.model, strategy=row.cell.strategy, seed=row.cell.seed
        )
        for path, row in rows.items()
    ]
    entries = ledger.load(claims)
    published = list(entries.numbers.values())
    return Results(
        rows=rows,
        seeds=pd.DataFrame(seeds),
        epochs=pd.concat(epochs, ignore_index=True),
        published={row.cell.model: [number for number in published if _applies(number, row)] for row in rows.values()},
        tables=paper_tables(entries, summary.summarise(rows), list(rows.values())),
        digest=digest(rows.values(), entries),
        models=list(dict.fromkeys(row.cell.model for row in rows.values())),
        strategies=summary.strategy_order(row.cell.strategy for row in rows.values()),
        look=look,
    )


def _applies(number: Published, row: Row) -> bool:
    """Whether a published number is about this model, and the row is of the published experiment."""
    return number.model == published_model(row.cell) and comparable(row) and isinstance(number.value, float)
