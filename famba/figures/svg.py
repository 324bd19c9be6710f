"""From matplotlib's SVG to a figure that stands alone and in a page beside others, with its numbers to read off.

Several figures are inlined into one page, whose policy refuses `style`: the look is set by attributes, which a page may
override for a dark screen, and every id begins with the figure's. Text is text. The tooltip of a mark is a <title>,
which browsers show on hover.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple
from xml.etree import ElementTree as ET

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Patch, Rectangle
from matplotlib.transforms import Affine2D, ScaledTranslation

from famba.figures.captions import Caption

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WATERMARK, PLATE = "watermark-smoke", "plate"  # ids that stay, behind the figure's
_HREF = f"{{{XLINK}}}href"
_TIP, _BREAK = "tip:", "\u2028"  # a group's id carries link and words through matplotlib
_LONG = re.compile(r"-?\d+\.\d{3,}")
_USES = re.compile(r"#([^)\s]+)")


def tooltip(artist: Artist, lines: list[str], href: str | None = None) -> None:
    """Set what a browser shows when the pointer is on a mark, line by line. `href`: where a click leads in a page."""
    artist.set_gid(_TIP + _BREAK.join([href or "", *lines]))


def row_tooltip(axes: Axes, at: float, lines: list[str], href: str | None = None) -> None:
    """A tooltip of the row of marks at `at` of the y axis: an invisible strip across the panel."""
    _invisible(axes, Rectangle((0, at - 0.5), 1, 1, transform=axes.get_yaxis_transform()), lines, href)


def column_tooltip(axes: Axes, at: float, width: float, lines: list[str]) -> None:
    """A tooltip of the marks at `at` of the x axis: an invisible strip from bottom to top."""
    _invisible(axes, Rectangle((at - width / 2, 0), width, 1, transform=axes.get_xaxis_transform()), lines, None)


def point_tooltip(axes: Axes, x: float, y: float, lines: list[str], href: str | None = None, size: float = 16) -> None:
    """A tooltip of a single mark: an invisible circle around it, `size` points across."""
    here = ScaledTranslation(x, y, axes.transData)  # type: ignore[arg-type]
    points = Affine2D().scale(1 / 72) + axes.figure.dpi_scale_trans + here
    _invisible(axes, Circle((0, 0), size / 2, transform=points), lines, href)


def _invisible(axes: Axes, area: Patch, lines: list[str], href: str | None) -> None:
    """A <path> of its own, which a page can paint: of a Line2D's marker it would be a <use>, where no CSS reaches."""
    area.set(facecolor="none", edgecolor="none", zorder=9)
    tooltip(area, lines, href)
    axes.add_artist(area)


class Origin(NamedTuple):
    """What a figure was drawn from, which a page compares with its own.

    `digest`: of the rows and the ledger; `beside`: of the files beside the rows; `colours`: those of a style file, for
    which a page on a dark screen has to find others.
    """

    digest: str | None = None
    beside: str | None = None
    colours: Collection[str] = ()


NO_ROWS = Origin()  # a figure of something else


def finish(drawn: bytes, name: str, caption: Caption, origin: Origin) -> str:
    """The file of a figure. `name`: what its ids begin with."""
    root = ET.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _set_attributes(element)
    root.attrib |= {
        "id": name, "role": "group", "aria-label": caption.title, "aria-describedby": f"{name}-description",
        "font-family": "DejaVu Sans, Verdana, sans-serif", "stroke-linejoin": "round",
    }  # fmt: skip
    data = origin._asdict() | {"colours": " ".join(origin.colours).lower()}
    root.attrib |= {f"data-{key}": value for key, value in data.items() if value}
    for mark in [group for group in root.iter() if group.get("id", "").startswith(_TIP)]:
        _set_mark(mark)
    _rename_ids(root, name)
    about = ET.Element(f"{{{SVG}}}desc", id=f"{name}-description")
    about.text = caption.text
    root.insert(0, about)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return ET.tostring(root, encoding="unicode") + "\n"


def _set_attributes(element: ET.Element) -> None:
    """Attributes in place of `style`, and no more digits than can be seen."""
    for declaration in filter(str.strip, element.attrib.pop("style", "").split(";")):
        key, _, value = declaration.partition(":")
        if key.strip() != "font-family":  # the root's, which a page replaces by its own
            element.set(key.strip(), value.strip().removesuffix("px"))
    for key in ("d", "x", "y", "width", "height", "transform", "viewBox", "points"):
        if text := element.get(key):
            element.set(key, _short(text))


def _short(text: str) -> str:
    """Coordinates in hundredths of a point; the factors of a matrix scale hundreds of pixels, and keep six digits."""
    digits = 6 if text.startswith("matrix") else 2
    return _LONG.sub(lambda found: f"{round(float(found.group()), digits):.6g}", text)


def _set_mark(mark: ET.Element) -> None:
    """A group with a tooltip: its words become a <title>, and the group a link if it leads somewhere."""
    href, *lines = mark.attrib.pop("id").removeprefix(_TIP).split(_BREAK)
    mark.attrib |= {"class": "mark", "pointer-events": "all"}
    if href:
        mark.tag = f"{{{SVG}}}a"
        mark.set("href", href)
    title = ET.Element(f"{{{SVG}}}title")
    title.text = "\n".join(lines)
    mark.insert(0, title)


def _rename_ids(root: ET.Element, name: str) -> None:
    """Ids that nothing uses are dropped; the others begin with the figure's name."""
    used = {found for element in root.iter() for found in _references(element)}
    new = {kept: f"{name}-{kept}" for kept in (WATERMARK, PLATE)}
    for element in list(root.iter())[1:]:
        if (old := element.attrib.pop("id", None)) in used | {WATERMARK, PLATE}:
            element.set("id", new.setdefault(str(old), f"{name}-{len(new)}"))
    for element in root.iter():
        for key, value in element.attrib.items():
            if "url(#" in value or (key == _HREF and value[1:] in new):
                element.set(key, _USES.sub(lambda found: f"#{new[found[1]]}", value))


def _references(element: ET.Element) -> Iterator[str]:
    for key, value in element.attrib.items():
        if key == _HREF or "url(#" in value:
            yield from _USES.findall(value)
