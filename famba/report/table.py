"""A table of the page, and the same table as CSV and as LaTeX to copy."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from famba.judge.tables import tex
from famba.record import Row


@dataclass(frozen=True)
class Entry:
    """One cell. `exact`: the number behind the text, which sorts and is exported; `href`: where it is from.

    `links` stand for the text, each with its own address.
    """

    text: str
    exact: float | None = None
    href: str | None = None
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """`numeric`: a mark per column, `r` for numbers and `l` for words; `ids`: an anchor per line, or nothing."""

    id: str
    caption: str
    head: Sequence[str]
    numeric: str
    lines: Sequence[Sequence[Entry]]
    csv: str
    latex: str
    ids: Sequence[str] = ()
    note: str = ""

    @property
    def empty(self) -> bool:
        """No line, or no number in any column of numbers: nothing to show."""
        entries = [e for line in self.lines for e, kind in zip(line, self.numeric, strict=True) if kind == "r"]
        return not self.lines or ("r" in self.numeric and all(e.text in ("", "–") for e in entries))


def table(
    id_: str,
    caption: str,
    head: Sequence[str],
    numeric: str,
    lines: Iterable[Sequence[Entry]],
    ids: Sequence[str] = (),
    note: str = "",
    csv_text: str | None = None,
    latex: str | None = None,
) -> Table:
    """A table with its copies; those that the judge writes already are given, the others follow from the entries."""
    body = [list(line) for line in lines]
    return Table(
        id_, caption, head, numeric, body, csv_text or as_csv(head, body), latex or as_latex(head, numeric, body),
        ids, note,
    )  # fmt: skip


def number(value: float | None, digits: int = 2, half: float | None = None, href: str | None = None) -> Entry:
    """A number with so many decimals, ± half its interval; a dash for none."""
    if value is None:
        return Entry("–", None, href)
    return Entry(f"{value:,.{digits}f}" + (f" ± {half:,.{digits}f}" if half is not None else ""), value, href)


def as_csv(head: Sequence[str], lines: Iterable[Sequence[Entry]]) -> str:
    """Exact numbers, rounded to six digits as in summary.csv; text as it stands."""
    return csv_of([head, *([e.text if e.exact is None else f"{e.exact:.6g}" for e in line] for line in lines)])


def csv_of(lines: Iterable[Sequence[object]]) -> str:
    """Lines of values as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def as_latex(head: Sequence[str], numeric: str, lines: Iterable[Sequence[Entry]]) -> str:
    """A tabular that needs the package booktabs. Ends in a newline."""
    rows = [" & ".join(tex(text) for text in line) + r" \\" for line in [head, *([e.text for e in x] for x in lines)]]
    return "\n".join(
        [rf"\begin{{tabular}}{{@{{}}{numeric}@{{}}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule",
         r"\end{tabular}", ""]
    )  # fmt: skip


def as_markdown(found: Table) -> str:
    """An aligned Markdown table. No newline at its end."""
    lines = [list(found.head), *([e.text for e in line] for line in found.lines)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    pad = [str.ljust if kind == "l" else str.rjust for kind in found.numeric]
    rule = [
        "-" * width if kind == "l" else "-" * (width - 1) + ":"
        for width, kind in zip(widths, found.numeric, strict=True)
    ]
    text = [[to(cell, width) for to, cell, width in zip(pad, line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [text[0], rule, *text[1:]])


def words(quantity: str) -> str:
    """The name of a quantity for people."""
    return quantity.replace("top1", "top-1").replace("_", " ")


def slug(text: str) -> str:
    """A name as a part of an id."""
    return re.sub(r"[^a-z0-9_]+", "-", text).strip("-")


def line_href(line: Mapping[str, object]) -> str:
    """Where the page shows a line of the summary."""
    return f"#line-{line['model']}-{line['strategy']}"


def row_href(row: Row) -> str:
    """Where the page shows a row."""
    return f"#row-{row.id}"
