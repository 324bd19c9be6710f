"""The figures that `famba figures` and `famba audit` drew, as the page takes them in: the very files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from famba.errors import InputError
from famba.figures import names_of, palette
from famba.figures.captions import AUDIT, FIGURES, Caption


@dataclass(frozen=True)
class Picture:
    """`svg`: the figure's file; None where there is none beside the page."""

    id: str
    caption: Caption
    svg: Markup | None


def figures(folder: Path, strategies: Sequence[str]) -> list[Picture]:
    """Every figure of an experiment with these strategies, in their order."""
    return list(_read(folder, {name: FIGURES[name] for name in names_of(strategies)}, ""))


def audit(folder: Path) -> list[Picture]:
    """Those figures of the audit that the folder has."""
    return [picture for picture in _read(folder, AUDIT, "audit-") if picture.svg]


def dark() -> str:
    """What a page sets on a dark screen: other greys for those that the figures are drawn with."""
    rules = (
        f'[{paint}="{grey.lower()}"] {{ {paint}: {other}; }}'  # also inside <use>, where no ancestor matches
        for grey, other in palette.DARK.items()
        for paint in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark) {{ {' '.join(rules)} }}\n"


def _read(folder: Path, captions: Mapping[str, Caption], prefix: str) -> Iterator[Picture]:
    for name, caption in captions.items():
        path = folder / f"{name}.svg"
        text = path.read_text(encoding="utf-8") if path.is_file() else None
        if text is not None and not (text.startswith("<svg") and f' id="{prefix}{name}"' in text):
            raise InputError(f"{path}: not drawn by this famba; draw it again")
        yield Picture(f"figure-{prefix}{name}", caption, Markup(text) if text else None)
