"""One description of a table, and every form that it is written in: Markdown, LaTeX (booktabs), CSV, plain text."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from famba.text import SMOKE_NOTE, markdown, tex

SMALL = r"\scriptsize\setlength{\tabcolsep}{3pt}"  # for many columns
DASH = "–"  # stands for a number that there is none of
# decimals of a claim's number; accuracies are published with one, times to the second, memory in whole MiB
_DECIMALS = {"%": 2, "points": 2, "h": 4, "MiB": 0}


@dataclass(frozen=True)
class Column:
    """`align`: `r` for numbers, `l` for words; `second`: the head's second line; `wide`: its share of the text's
    width in LaTeX, for words that wrap."""

    head: str
    align: Literal["l", "r"] = "l"
    second: str = ""
    wide: float | None = None

    @property
    def name(self) -> str:
        """The whole head."""
        return f"{self.head} {self.second}".strip()


@dataclass(frozen=True)
class Entry:
    """One cell. `exact`: the number behind the text, which sorts and is exported; `href`: a link.

    `links` stand for the text, each with its own address.
    """

    text: str
    exact: float | None = None
    href: str | None = None
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A table and what is said about it.

    `run`: what was run, where the table says so; `ids`: an anchor per line; `sentences` stand in place of further
    lines; `grouped`: lines with the same first entry belong together; `size`: LaTeX commands for its font.
    """

    columns: Sequence[Column]
    lines: Sequence[Sequence[Entry]]
    id: str = ""
    caption: str = ""
    note: str = ""
    run: str = ""
    smoke: bool = False
    ids: Sequence[str] = ()
    sentences: Sequence[str] = ()
    grouped: bool = False
    size: str = ""

    @property
    def empty(self) -> bool:
        """No line, or no number in any column of numbers: nothing to show."""
        numbers = [
            e for line in self.lines for e, column in zip(line, self.columns, strict=True) if column.align == "r"
        ]
        there = any(column.align == "r" for column in self.columns)
        return not self.lines or (there and all(e.text in ("", DASH) for e in numbers))

    @property
    def texts(self) -> list[list[str]]:
        """The head, then the lines."""
        return [[column.name for column in self.columns], *([e.text for e in line] for line in self.lines)]

    @property
    def csv(self) -> str:
        """Exact numbers with six digits, as in summary.csv; text as it stands."""
        lines = ([e.text if e.exact is None else f"{e.exact:.6g}" for e in line] for line in self.lines)
        return csv_of([self.texts[0], *lines])

    @property
    def latex(self) -> str:
        """A tabular that needs the packages array and booktabs. Ends in a newline."""
        wide = r">{{\raggedright\arraybackslash}}p{{{}\textwidth}}"
        columns = "".join(wide.format(c.wide) if c.wide else c.align for c in self.columns)
        span = rf"\multicolumn{{{len(self.columns)}}}{{@{{}}p{{0.9\textwidth}}@{{}}}}"
        return "\n".join(
            [
                rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule",
                _tex_line(c.head for c in self.columns),
                *([_tex_line(c.second for c in self.columns)] if any(c.second for c in self.columns) else []),
                r"\midrule", *self._tex_body(), *(rf"{span}{{{tex(text)}}} \\" for text in self.sentences),
                r"\bottomrule", r"\end{tabular}", "",
            ]
        )  # fmt: skip

    @property
    def latex_float(self) -> str:
        """The tabular with its caption, across both columns of a paper. Ends in a newline."""
        smoke = rf"\textbf{{{SMOKE_NOTE}.}} " if self.smoke else ""
        caption = f"Run: {self.run}." if self.run else f"{self.caption}."
        return "\n".join(
            [
                *([r"% needs \usepackage{array,booktabs}"] if any(c.wide for c in self.columns) else []),
                r"\begin{table*}[t]", rf"\centering{self.size}",
                rf"\caption{{{smoke}{tex(caption)} {tex(self.note)}}}", rf"\label{{tab:{self.id}}}",
                self.latex.rstrip(), r"\end{table*}", "",
            ]
        )  # fmt: skip

    @property
    def markdown(self) -> str:
        """The lines as a Markdown table, aligned where no column wraps. No newline at its end."""
        texts = [[markdown(text) for text in line] for line in self.texts]
        wraps = any(column.wide for column in self.columns)
        widths = [0 if wraps else max(3, *map(len, column)) for column in zip(*texts, strict=True)]
        marks = ["-:" if column.align == "r" else "--" for column in self.columns]
        rule = [mark.rjust(max(width, 3), "-") for mark, width in zip(marks, widths, strict=True)]
        lines = [texts[0], rule, *texts[1:]]
        return "\n".join(f"| {' | '.join(self._padded(line, widths))} |" for line in lines)

    @property
    def markdown_page(self) -> str:
        """The Markdown table with all that is said about it. Ends in a newline."""
        parts = [
            [f"**{SMOKE_NOTE}.**"] if self.smoke else [],
            [f"Run: {markdown(self.run)}."] if self.run else [],
            [self.markdown] if self.lines else [],
            [f"* {markdown(text)}" for text in self.sentences],
            [self.note] if self.note else [],
        ]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    @property
    def plain(self) -> str:
        """Aligned text for a terminal. No newline at its end."""
        widths = [max(map(len, column)) for column in zip(*self.texts, strict=True)]
        return "\n".join("  ".join(self._padded(line, widths)).rstrip() for line in self.texts)

    def _padded(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            text.rjust(width) if column.align == "r" else text.ljust(width)
            for text, column, width in zip(line, self.columns, widths, strict=True)
        ]

    def _tex_body(self) -> Iterator[str]:
        before = None
        for first, *others in self.texts[1:]:
            same = self.grouped and first == before
            if self.grouped and before is not None and not same:
                yield r"\midrule"
            yield _tex_line(["" if same else first, *others])
            before = first


def table(columns: Sequence[Column], lines: Iterable[Sequence[Entry | str]], **about: Any) -> Table:
    """A table of which words may be given as they are. `about`: the other fields of `Table`."""
    entries = [[e if isinstance(e, Entry) else Entry(e) for e in line] for line in lines]
    return Table(columns, entries, **about)


def number(value: float | None, digits: int = 2, half: float | None = None, href: str | None = None) -> Entry:
    """A number with so many decimals, ± half its interval; a dash for none."""
    if value is None:
        return Entry(DASH, None, href)
    return Entry(f"{value:,.{digits}f}" + (f" ± {half:,.{digits}f}" if half is not None else ""), value, href)


def in_unit(value: float, unit: str) -> str:
    """A number of a claim as all tables and pages write it, without its unit (see `famba.claims.verdicts`)."""
    return tokens(value) if unit == "tokens" else f"{value:z,.{_DECIMALS[unit]}f}"


def effect_size(value: float | None) -> str:
    """A distance in standard deviations; a dash for none."""
    if value is None:
        return DASH
    return f"{value:z,.0f}" if abs(value) >= 10 else f"{value:z.2f}"


def tokens(number: float) -> str:
    """A number of tokens: whole, or the mean over images that a threshold makes, with a decimal."""
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


def difference(value: float | None, ends: tuple[float, float] | None, shown: Callable[[float], str]) -> Entry:
    """A number with its sign, and the ends of its interval where it has one; a dash for none."""

    def signed(number: float) -> str:
        return ("−" if number < 0 else "+") + shown(abs(number))

    if value is None:
        return Entry(DASH)
    return Entry(signed(value) + (f" [{signed(ends[0])}, {signed(ends[1])}]" if ends else ""), value)


def in_images(points: float, images: int) -> str:
    """A difference of accuracies in test images: `2.7 images`; it may be a mean over seeds."""
    count = abs(points) * images / 100
    return f"{count:.1f} images" if count < 10 and abs(count - round(count)) > 0.05 else f"{count:.0f} images"


def csv_of(lines: Iterable[Sequence[object]]) -> str:
    """Lines of values as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _tex_line(texts: Iterable[str]) -> str:
    return " & ".join(map(tex, texts)) + r" \\"


def words(quantity: str) -> str:
    """The name of a quantity for people."""
    return quantity.replace("top1", "top-1").replace("_", " ")


def slug(text: str) -> str:
    """A name as a part of an id."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")
