"""The files that `famba figures` and `famba audit` drew, embedded in the page unchanged."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from famba.errors import InputError
from famba.figures import BESIDE, names_of, palette
from famba.figures.captions import AUDIT, CAPTIONS, Caption
from famba.files import read_text
from famba.results import beside
from famba.results.row import Row

_BESIDE = re.compile(r' data-beside="([0-9a-f]{64})"')
_OWN_COLOURS = re.compile(r' data-colours="([#0-9a-f ]*)"')


@dataclass(frozen=True)
class Picture:
    """`svg`: the figure's file; None where there is none beside the page."""

    id: str
    caption: Caption
    svg: Markup | None


def figures(folder: Path, strategies: Sequence[str], digest: str, rows: Mapping[Path, Row]) -> list[Picture]:
    """Every figure of an experiment with these strategies, in their order. `digest`: of its rows and ledger.

    Raises InputError for a file that is damaged, or was drawn from others, or from other files beside the rows.
    """
    found = list(_read(folder, {name: CAPTIONS[name] for name in names_of(strategies)}, "", digest))
    drawn = {picture.id.removeprefix("figure-"): picture.svg for picture in found if picture.svg}
    for name, file in BESIDE.items():
        # a file from before it was recorded says nothing, and rows may be published without the files beside them
        then = _BESIDE.search(drawn.get(name, "").partition(">")[0])
        if then and beside.digest(rows, file) not in (None, then[1]):
            raise InputError(f"{folder / name}.svg: drawn from another {file}; run famba figures first")
    return found


def audit(folder: Path) -> list[Picture]:
    """Those figures of the audit that the folder has."""
    return [picture for picture in _read(folder, AUDIT, "audit-", None) if picture.svg]


def dark(strategies: Sequence[str], pictures: Sequence[Picture] = ()) -> str:
    """What a page sets on a dark screen: other colours for those that figures of these strategies are drawn with.

    `pictures`: those that may have the colours of a style file.
    """
    own = {
        hue
        for picture in pictures
        if picture.svg and (found := _OWN_COLOURS.search(picture.svg.partition(">")[0]))
        for hue in found[1].split()
    }
    rules = [
        f'[{paint}="{colour.lower()}"] {{ {paint}: {other}; }}'  # also inside <use>, where no ancestor matches
        for colour, other in palette.on_dark(strategies, sorted(own)).items()
        for paint in ("fill", "stroke")
    ]
    rules.append(f'text[fill="#ffffff"] {{ fill: {palette.DARK_PAGE}; }}')  # on a colour that is lighter now
    return f"@media screen and (prefers-color-scheme: dark) {{ {' '.join(rules)} }}\n"


def _read(folder: Path, captions: Mapping[str, Caption], prefix: str, digest: str | None) -> Iterator[Picture]:
    for name, caption in captions.items():
        path = folder / f"{name}.svg"
        if not path.is_file():
            yield Picture(f"figure-{prefix}{name}", caption, None)
            continue
        text = read_text(path, "the figure", "; draw it again")
        root = text.partition(">")[0]
        if not (root.startswith("<svg ") and f' id="{prefix}{name}"' in root and text.endswith("</svg>\n")):
            raise InputError(f"{path}: not drawn by this version of famba, or truncated; draw it again")
        if digest and f' data-digest="{digest}"' not in root:
            raise InputError(
                f"{path}: drawn from other rows or another ledger; run famba figures first, on the same rows and with "
                "the same --claims"
            )
        yield Picture(f"figure-{prefix}{name}", caption, Markup(text))
