"""One colour and one marker per strategy, the same in every figure, table and page."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe and Ito's palette, told apart with every kind of colour vision; grey is what the others are compared with
STRATEGY_COLOURS = {
    "baseline": "#555555",
    "all": "#E69F00",
    "interleaved": "#CC79A7",
    "lower": "#009E73",
    "upper": "#0072B2",
}
STRATEGY_MARKERS = {"baseline": "o", "all": "s", "interleaved": "D", "lower": "v", "upper": "^"}
_OWN_COLOURS = ("#D55E00", "#56B4E9", "#882255", "#999933", "#332288")
_OWN_MARKERS = ("P", "X", "p", "h", "<")


def colours(strategies: Iterable[str]) -> dict[str, str]:
    """A colour for each strategy; an experiment's own strategies take further colours, in the order given."""
    return _assign(strategies, STRATEGY_COLOURS, _OWN_COLOURS)


def markers(strategies: Iterable[str]) -> dict[str, str]:
    """A marker for each strategy, as `colours`."""
    return _assign(strategies, STRATEGY_MARKERS, _OWN_MARKERS)


def _assign(strategies: Iterable[str], fixed: dict[str, str], further: tuple[str, ...]) -> dict[str, str]:
    names = list(strategies)
    own = [name for name in names if name not in fixed]
    return {name: fixed[name] if name in fixed else further[own.index(name) % len(further)] for name in names}
