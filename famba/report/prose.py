"""Text from Markdown and YAML files for the page: code, and links to public sources, as pieces for the template."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from famba.errors import InputError
from famba.files import read_text

_PIECE = re.compile(
    r"`(?P<code>[^`]+)`|\[(?P<link>[^\]]+)\]\([^)]+\)|(?P<github>github\.com/[\w.-]+/[\w-]+)"
    r"|arXiv[ :](?P<arxiv>\d{4}\.\d{5})|doi[ :](?P<doi>10\.\S+\w)"
)


@dataclass(frozen=True)
class Piece:
    """A run of text: plain, `code`, or a link."""

    text: str
    code: bool = False
    href: str | None = None


def pieces(text: str) -> Iterator[Piece]:
    """Split at `code`, [file](links), github.com/owner/name, arXiv and DOI numbers."""
    at = 0
    for found in _PIECE.finditer(text):
        if found.start() > at:
            yield Piece(text[at : found.start()])
        kind, value = next((kind, value) for kind, value in found.groupdict().items() if value)
        if kind in ("code", "link"):  # a link is to a file that is not beside the page
            yield Piece(value, code=True)
        else:
            prefix = {"github": "https://", "arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}[kind]
            yield Piece(found.group(), href=prefix + value)
        at = found.end()
    if at < len(text):
        yield Piece(text[at:])


@dataclass(frozen=True)
class Deviations:
    """docs/deviations.md: paragraphs before its table, the table, and the bullets after it with what leads to them."""

    before: Sequence[str]
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    after: Sequence[str]
    bullets: Sequence[str]


def deviations(path: Path) -> Deviations:
    """Read the deviations. Raises InputError for a file without a whole table."""
    text = read_text(path, "the deviations", "; name the file: --deviations")
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", text.strip()) if block]
    tables = [i for i, block in enumerate(blocks) if block[0].startswith("|")]
    if not tables:
        raise InputError(f"{path}: expected a Markdown table of deviations, found none")
    head, *lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in blocks[tables[0]]]
    if not lines or not all(re.fullmatch(":?-+:?", cell) for cell in lines.pop(0)):
        raise InputError(f"{path}: expected a line of dashes below '| {' | '.join(head)} |', the head of the table")
    odd = next((line for line in lines if len(line) != len(head)), None)
    if odd:
        raise InputError(f"{path}: the line '| {' | '.join(odd)} |' has {len(odd)} cells, expected {len(head)}")
    before: list[str] = []
    after: list[str] = []
    bullets: list[str] = []
    for i, block in enumerate(blocks):
        if block[0].startswith("* "):
            bullets += [" ".join(item.split()) for item in "\n".join(block).removeprefix("* ").split("\n* ")]
        elif i not in tables and not block[0].startswith("#"):
            (before if i < tables[0] else after).append(" ".join(block))
    return Deviations(before, head, lines, after, bullets)
