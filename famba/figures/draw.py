"""Draw every figure of an experiment."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from famba.errors import InputError
from famba.figures import BESIDE, FORMATS, bars, lines, patches, similarity, strategies, studies, style, tradeoff
from famba.figures.captions import CAPTIONS
from famba.figures.results import Results
from famba.figures.svg import Origin
from famba.results.beside import digest
from famba.results.tokens import NAME, TokenRecord, read_tokens
from famba.text import count, nearest

FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "top1": bars.top1,
    "time": bars.time,
    "memory": bars.memory,
    "accuracy_time": tradeoff.accuracy_time,
    "accuracy_memory": tradeoff.accuracy_memory,
    "tokens": lines.tokens,
    "strategies": strategies.strategies,
    "curves": lines.curves,
}
TOKEN_FIGURES: Mapping[str, Callable[[Results, Mapping[Path, TokenRecord]], Figure]] = {
    "similarity": similarity.similarity,
    "best_match": similarity.best_match,
    "fused_patches": patches.fused_patches,
}


def draw(
    results: Results,
    out: Path,
    only: Collection[str] = (),
    inches: float = style.WIDTH,
    formats: Collection[str] = FORMATS[:2],
) -> tuple[list[str], list[Path]]:
    """Write every figure to `out` as <name>.svg and <name>.png, or in other `formats`. `only`: these figures.

    Returns the names of the figures, and the rows that have no token record: where there is one, `TOKEN_FIGURES` are
    not drawn. Raises InputError, also for one of `only` that these rows cannot be drawn as.
    """
    bare = [path for path in results.rows if not path.with_name(NAME).exists()]
    plain = [*studies.drawn(results), *FIGURES]
    for name in only:
        if name in TOKEN_FIGURES and bare:
            raise InputError(f"--only {name}: no {NAME} beside {count(len(bare), 'row')}, such as {bare[0]}")
        if name not in plain and name not in TOKEN_FIGURES:
            raise InputError(f"--only {name}: no such figure of these rows{nearest(name, [*plain, *TOKEN_FIGURES])}")
    names = [name for name in (*plain, *(() if bare else TOKEN_FIGURES)) if not only or name in only]
    records = (
        {path: read_tokens(path.with_name(NAME), row) for path, row in results.rows.items()}
        if TOKEN_FIGURES.keys() & names
        else {}
    )
    colours = sorted(set(results.look.of_strategies("colour").values()))
    for name in names:
        made = figure(name, results, records, inches)
        beside = digest(results.rows, BESIDE[name]) if name in BESIDE else None
        origin = Origin(results.digest, beside, colours)
        with style.theme():
            style.save(made, out, name, CAPTIONS[name], formats=formats, origin=origin)
    return names, bare


def figure(
    name: str, results: Results, records: Mapping[Path, TokenRecord] | None = None, inches: float = style.WIDTH
) -> Figure:
    """One figure by its name, watermarked where the rows are a smoke run's. `TOKEN_FIGURES` need the token records."""
    plain = {**studies.drawn(results), **FIGURES}
    with style.theme(inches):
        made = plain[name](results) if name in plain else TOKEN_FIGURES[name](results, records or {})
        if results.smoke:
            style.watermark(made)
        return made
