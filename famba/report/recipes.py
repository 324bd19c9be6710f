"""One model under two recipes, for the page, Markdown and LaTeX: both means and their difference."""

from collections.abc import Sequence
from itertools import groupby

from famba.results.anchors import line_id
from famba.results.recipes import Difference
from famba.results.tables import SMALL, Column, Entry, Table, difference, number, table

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
    "interval over seeds (Student t; none of n < 3)."
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
            difference(one.difference, one.interval, f"{{:,.{_MEASURES[one.measure][1]}f}}".format),
            Entry(one.unit),
        ]
        for one in found
    ]
    numbers = ("n", *recipes, "difference")
    columns = [Column("strategy"), Column("measure"), *(Column(name, "r") for name in numbers), Column("unit")]
    caption = f"Recipes compared: {models[1]} less {models[0]}"
    return table(columns, body, id=id_, caption=caption, note=_NOTE, size=SMALL)
