"""What the figures are drawn from: measures per seed, epochs, and the published numbers that may stand beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from famba.claims import ledger
from famba.claims.entries import Published
from famba.claims.paper_tables import PaperTable, comparable, paper_tables
from famba.config.protocol import published_model
from famba.results import summary
from famba.results.epochs import read_epochs
from famba.results.row import Row


@dataclass(frozen=True)
class Results:
    """Rows in a form to draw.

    `seeds`: a line per row with `model`, `strategy`, `seed`, `token_share` and every measure and ratio of
    `famba.results.summary`. `epochs`: epochs.csv of all rows, with `model` and `strategy`. `published`: by model,
    numbers that may stand beside its rows. `tables`: the paper's tables that the rows speak about.
    """

    rows: Mapping[Path, Row]
    seeds: pd.DataFrame
    epochs: pd.DataFrame
    published: Mapping[str, Sequence[Published]]
    tables: Sequence[PaperTable]
    models: Sequence[str]
    strategies: Sequence[str]

    @property
    def smoke(self) -> bool:
        return next(iter(self.rows.values())).watermark is not None

    @property
    def several_seeds(self) -> bool:
        return self.seeds.groupby(["model", "strategy"]).size().max() > 1

    @property
    def memory_kind(self) -> str:
        return summary.memory_kind(next(iter(self.rows.values())))

    @property
    def time(self) -> tuple[str, str]:
        """Column and name of the time that trainings are compared by: on a CPU its own, whatever else ran there."""
        return ("cpu_s", "CPU time of training") if self._on_cpu else ("train_s", "training time")

    @property
    def step_ratio_name(self) -> str:
        """What `step_ratio` is of."""
        return f"{'CPU time' if self._on_cpu else 'time'} of a step / baseline's"

    @property
    def _on_cpu(self) -> bool:
        return next(iter(self.rows.values())).environment.device_kind == "cpu"

    def of(self, model: str) -> pd.DataFrame:
        """The seeds of one model."""
        return self.seeds[self.seeds["model"] == model]


def read_results(paths: Sequence[Path], claims: Path) -> Results:
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
        models=list(dict.fromkeys(row.cell.model for row in rows.values())),
        strategies=summary.strategy_order(row.cell.strategy for row in rows.values()),
    )


def _applies(number: Published, row: Row) -> bool:
    """Whether a published number is about this model, and the row is of the published experiment."""
    return number.model == published_model(row.cell) and comparable(row) and isinstance(number.value, float)
