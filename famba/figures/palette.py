"""One colour and one marker per strategy, the same in every figure, table and page."""

from collections.abc import Iterable

# Okabe and Ito's palette, distinct for every kind of colour vision; grey: the baseline
STRATEGY_COLOURS = {
    "baseline": "#555555",
    "all": "#E69F00",
    "interleaved": "#CC79A7",
    "lower": "#009E73",
    "upper": "#0072B2",
}
MODELS = {"vim_tiny": "#0072B2", "vim_small": "#D55E00"}  # of the paper's, where no strategy is shown
NOT_FUSED = "#e4e4e4"  # a layer that fuses nothing
STRATEGY_MARKERS = {"baseline": "o", "all": "s", "interleaved": "D", "lower": "v", "upper": "^"}
INK, FAINT, GRID, SMOKE = "#222222", "#6b6b6b", "#dddddd", "#efefef"
DARK = {  # what takes the place of greys on a dark screen
    INK: "#e7e9ec", FAINT: "#a6adb8", GRID: "#333a43", SMOKE: "#1e2329", NOT_FUSED: "#3a424c",
    STRATEGY_COLOURS["baseline"]: "#9aa1ab",
}  # fmt: skip
DARK_PAGE = "#14171b"
_OWN_COLOURS = ("#D55E00", "#56B4E9", "#882255", "#999933", "#332288")
_OWN_MARKERS = ("P", "X", "p", "h", "<")
# from dark to light, of even steps to the eye: strategies that are settings of one quantity, and more than colours
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (216, 200, 40))


def colours(strategies: Iterable[str]) -> dict[str, str]:
    """A colour for each strategy; an experiment's own take further colours, or a ramp where there are too few."""
    names = list(strategies)
    own = sum(name not in STRATEGY_COLOURS for name in names)
    further = _OWN_COLOURS if own <= len(_OWN_COLOURS) else tuple(_between(i / (own - 1)) for i in range(own))
    return _assign(names, STRATEGY_COLOURS, further)


def on_dark(strategies: Iterable[str], own: Iterable[str] = ()) -> dict[str, str]:
    """What takes the place of every colour that figures of these strategies have, greys and hues, on a dark screen.

    `own`: further hues, of a style file.

    A hue gets 35 % of white: the darkest of all then has a contrast of 3 with the page (WCAG 2.2, 1.4.11).
    """
    hues = dict.fromkeys([*own, *{**STRATEGY_COLOURS, **colours(strategies), **MODELS}.values()])
    return {
        hue: "#" + "".join(f"{round(0.65 * c + 0.35 * 255):02x}" for c in bytes.fromhex(hue[1:])) for hue in hues
    } | DARK


def markers(strategies: Iterable[str]) -> dict[str, str]:
    """A marker for each strategy, as `colours`."""
    return _assign(strategies, STRATEGY_MARKERS, _OWN_MARKERS)


def _between(share: float) -> str:
    """The ramp's colour at a share of its length."""
    at = share * (len(_RAMP) - 1)
    i = min(int(at), len(_RAMP) - 2)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02X}" for a, b in zip(_RAMP[i], _RAMP[i + 1], strict=True))


def _assign(strategies: Iterable[str], fixed: dict[str, str], further: tuple[str, ...]) -> dict[str, str]:
    names = list(strategies)
    own = [name for name in names if name not in fixed]
    return {name: fixed[name] if name in fixed else further[own.index(name) % len(further)] for name in names}
