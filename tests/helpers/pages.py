"""A report made by the command, and its HTML taken apart."""

from html.parser import HTMLParser
from pathlib import Path

from famba.cli import main
from tests.helpers import ROOT

CLAIMS = ROOT / "config" / "claims.yaml"
DEVIATIONS = ROOT / "docs" / "deviations.md"


class Page(HTMLParser):
    """Elements with their attributes, and the text of the page without style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.preformatted: dict[str, str] = {}  # by id
        self._inside: list[str] = []
        self.source = text
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag in ("style", "script", "pre"):
            self._inside.append(tag)
        if tag == "pre":
            self._pre = self.elements[-1][1].get("id", "")

    def handle_endtag(self, tag):
        if tag in self._inside:
            self._inside.remove(tag)

    def handle_data(self, data):
        if self._inside == ["pre"]:
            self.preformatted[self._pre] = self.preformatted.get(self._pre, "") + data
        if self._inside in ([], ["pre"]):
            self.words.append(data)

    def all(self, tag: str, **having: str) -> list[dict[str, str]]:
        return [a for name, a in self.elements if name == tag and having.items() <= a.items()]


def report(folder: Path, rows: list[Path], *more: str, claims: Path = CLAIMS) -> int:
    """Judge rows and write their page."""
    given = ["--claims", str(claims), *map(str, rows)]
    assert main(["judge", "--out", str(folder), *given]) == 0
    return main(["report", "--out", str(folder / "report.html"), "--deviations", str(DEVIATIONS), *more, *given])
