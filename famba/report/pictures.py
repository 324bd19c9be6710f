"""Figures that are taken into the page as `famba figures` drew them, where they are there."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from famba.claims.sweeps import sweeps

# name of the file, heading, what it shows
PICTURES: Sequence[tuple[str, str, str]] = (
    (
        "strategies",
        "Strategies",
        "A box per layer, as high as the tokens that its mixer sees; drawn from the schedules of these rows.",
    ),
    (
        "similarity",
        "Where similar tokens are",
        "Cosine similarity of all pairs of patches in some layers of a trained model, mean over test images.",
    ),
    (
        "best_match",
        "Best match by layer",
        "How alike a token and its nearest partner are, layer by layer: what the matching would link, fused or not.",
    ),
    (
        "fused_patches",
        "Fused patches",
        "Test images, and which of their patches a trained model has fused after some layers: a colour per group.",
    ),
)
STUDIES = {
    "starting_layer": (
        "By starting layer",
        "Accuracy, time and memory of upper by the layer that it starts in, counted from 1; later layers fuse as well.",
    ),
    "tokens_per_layer": (
        "By tokens per layer",
        "Accuracy, time and memory of upper by the tokens that each of its layers fuses.",
    ),
}
AUDIT: Sequence[tuple[str, str, str]] = (
    (
        "memory",
        "Published against fitted memory",
        "Peak memory of every published training, and what its tokens give under the reading that fits best.",
    ),
    (
        "time",
        "Published time against tokens",
        "Time per epoch in Table 1 by the mean share of tokens; a line's value at zero is the part without tokens.",
    ),
    (
        "starting_layer",
        "Published top-1 by starting layer",
        "Table 2: Vim-Ti with upper fusion by the layer that it starts in; dashed: without fusion.",
    ),
)
VECTOR_AT_MOST = 300_000  # bytes; a larger SVG holds images, and its PNG shows them as well in less


@dataclass(frozen=True)
class Picture:
    """`data`: the figure as a data URL, or None where the folder has none."""

    name: str
    title: str
    caption: str
    data: str | None


def read(folder: Path) -> list[Picture]:
    """All of PICTURES, in their order."""
    return [Picture(name, title, caption, _data(folder / name)) for name, title, caption in PICTURES]


def studies(folder: Path, strategies: Iterable[str]) -> list[Picture]:
    """Of the paper's studies that the strategies take part in."""
    return [Picture(sweep.name, *STUDIES[sweep.name], _data(folder / sweep.name)) for sweep in sweeps(strategies)]


def audit(folder: Path) -> list[Picture]:
    """Figures of `famba audit`, as far as the folder has them."""
    found = (Picture(f"audit-{name}", title, caption, _data(folder / name)) for name, title, caption in AUDIT)
    return [picture for picture in found if picture.data]


def _data(stem: Path) -> str | None:
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    if svg.is_file() and (svg.stat().st_size <= VECTOR_AT_MOST or not png.is_file()):
        return f"data:image/svg+xml;base64,{b64encode(svg.read_bytes()).decode()}"
    return f"data:image/png;base64,{b64encode(png.read_bytes()).decode()}" if png.is_file() else None
