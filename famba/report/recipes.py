"""One model under two recipes, for the page, Markdown and LaTeX: both means and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from famba.results.anchors import line_id
from famba.results.recipes import Difference
from famba.results.tables import SMALL, Column, Entry, Table, number, table

_MEASURES = {
    "top1_last_percent": ("top-1, last epoch", 2),
    "top1_best_percent": ("top-1, best epoch", 2),
    "top5_last_percent": ("top-5, last epoch", 2),
    "loop_s": ("time of the loop", 1),
    "cpu_s": ("CPU time of training", 1),
    "peak_memory_mib": ("peak memory", 0),
}
_NOTE = (
    "Means over the n seeds that both recipes have, and the second recipe less the first, seed by seed, with the 95 % "
    "interval over seeds (Student t; none for one seed)."
)


def tables(differences: Sequence[Difference]) -> list[Table]:
    """A table for each model and pair of recipes."""
    pairs = groupby(differences, key=lambda found: (found.recipes, found.models))
    return [
        _table(f"recipes-{i}", recipes, models, list(found)) for i, ((recipes, models), found) in enumerate(pairs, 1)
    ]


def _table(id_: str, recipes: tuple[str, str], models: tuple[str, str], found: Sequence[Difference]) -> Table:
    body = [
        [
            Entry(one.strategy),
            Entry(_MEASURES[one.measure][0]),
            Entry(str(one.n), one.n),
            *(
                number(mean, _MEASURES[one.measure][1], href=f"#{line_id(model, one.strategy)}")
                for mean, model in zip(one.means, models, strict=True)
            ),
            Entry(_difference(one), one.difference),
            Entry(one.unit),
        ]
        for one in found
    ]
    numbers = ("n", *recipes, "difference")
    columns = [Column("strategy"), Column("measure"), *(Column(name, "r") for name in numbers), Column("unit")]
    caption = f"Recipes compared: {models[1]} less {models[0]}"
    return table(columns, body, id=id_, caption=caption, note=_NOTE, size=SMALL)


def _difference(one: Difference) -> str:
    digits = _MEASURES[one.measure][1]
    text = _signed(one.difference, digits)
    if one.low is None or one.high is None:
        return text
    return f"{text} [{_signed(one.low, digits)}, {_signed(one.high, digits)}]"


def _signed(value: float, digits: int) -> str:
    return ("−" if value < 0 else "+") + f"{abs(value):,.{digits}f}"
