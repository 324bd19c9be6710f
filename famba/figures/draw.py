"""Draw every figure of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from famba.figures import bars, lines, patches, similarity, strategies, studies, style, tradeoff
from famba.figures.captions import CAPTIONS
from famba.figures.results import Results, read_results
from famba.results.tokens import NAME, TokenRecord, read_tokens

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


def draw(rows: Sequence[Path], out: Path, claims: Path) -> tuple[list[str], list[Path]]:
    """Read rows and write every figure to `out` as <name>.svg and <name>.png.

    Returns the names of the figures, and the rows that have no token record: where there is one, `TOKEN_FIGURES` are
    not drawn. Raises InputError.
    """
    results = read_results(rows, claims)
    bare = [path for path in results.rows if not path.with_name(NAME).exists()]
    records = {} if bare else {path: read_tokens(path.with_name(NAME), row) for path, row in results.rows.items()}
    names = [*studies.drawn(results), *FIGURES, *(TOKEN_FIGURES if records else ())]
    for name in names:
        with style.theme():
            style.save(figure(name, results, records), out, name, CAPTIONS[name], digest=results.digest)
    return names, bare


def figure(name: str, results: Results, records: Mapping[Path, TokenRecord] | None = None) -> Figure:
    """One figure by its name, watermarked where the rows are a smoke run's. `TOKEN_FIGURES` need the token records."""
    plain = {**studies.drawn(results), **FIGURES}
    with style.theme():
        made = plain[name](results) if name in plain else TOKEN_FIGURES[name](results, records or {})
        if results.smoke:
            style.watermark(made)
        return made
