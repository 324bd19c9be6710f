"""The figures of an experiment, drawn from its rows: SVG for a paper, PNG for a page.

Identical rows give byte-identical SVG. Every figure of a smoke run carries a watermark, behind the data.
"""

from collections.abc import Iterable

from famba.claims.sweeps import sweeps

FORMATS = ("svg", "png", "pdf")
NAMES = ("top1", "time", "memory", "accuracy_time", "accuracy_memory", "tokens", "strategies", "curves")
TOKEN_NAMES = ("similarity", "best_match", "fused_patches")  # need the tokens.npz beside each row
BESIDE = {"curves": "epochs.csv", **dict.fromkeys(TOKEN_NAMES, "tokens.npz")}  # drawn from this file beside each row


def names_of(strategies: Iterable[str]) -> list[str]:
    """All figures of an experiment with these strategies; first those of the paper's studies that it takes part in."""
    return [*(sweep.name for sweep in sweeps(strategies)), *NAMES, *TOKEN_NAMES]
