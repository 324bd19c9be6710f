"""Tables for people: the summary as Markdown and LaTeX (booktabs), and any table of the page with its copies."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from famba.results.row import Row
from famba.results.summary import shared_note
from famba.text import SMOKE_NOTE, model_name, tex, time_unit

NOTE = (
    "Top-1: last epoch, mean ± 95 % interval over n seeds (Student t; none for one seed). Time: training, without "
    "evaluation and each run's first step, by the wall clock. Memory: activations saved for the backward pass. Ratios: "
    "to the model without fusion, of a step's time (on a CPU: CPU time, in pairs with an unfused step where the row "
    "has that) and of memory; predicted from the tokens summed over layers."
)
_HEAD = ("model", "strategy", "n", "top-1 (%)", "time ({})", "step time ratio", "memory ratio", "tokens")
_BELOW = ("", "", "", "", "", "pred. → meas.", "pred. → meas.", "first → final")


def note_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """How to read the summary, and whether its times are of a shared machine."""
    return " ".join(filter(None, (NOTE, shared_note(lines))))


def markdown(lines: Sequence[Mapping[str, Any]], what: str) -> str:
    """An aligned Markdown table, with what was run and how to read it. Ends in a newline."""
    unit, size = time_unit(max(line["train_s"] for line in lines))
    head = [f"{a.format(unit)} {b}".strip() for a, b in zip(_HEAD, _BELOW, strict=True)]
    body = [_entries(line, size) for line in lines]
    widths = [max(3, *(len(row[i]) for row in [head, *body])) for i in range(len(head))]
    left = {0, 1}
    rule = ["-" * width if i in left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    rows = [head, rule, *body]
    table = [
        " | ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    note = [f"**{SMOKE_NOTE}.**", ""] if lines[0]["watermark"] else []
    return "\n".join([*note, f"Run: {what}.", "", *(f"| {row} |" for row in table), "", note_of(lines), ""])


def latex(lines: Sequence[Mapping[str, Any]], what: str) -> str:
    """A floating table that needs the package booktabs. Ends in a newline."""
    note = rf"\textbf{{{SMOKE_NOTE}.}} " if lines[0]["watermark"] else ""
    unit, size = time_unit(max(line["train_s"] for line in lines))
    body: list[str] = []
    for i, line in enumerate(lines):
        new_model = i == 0 or line["model"] != lines[i - 1]["model"]
        if i and new_model:
            body.append(r"\midrule")
        entries = _entries(line, size)
        body.append(" & ".join(tex(cell) for cell in [entries[0] if new_model else "", *entries[1:]]) + r" \\")
    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{note}Run: {tex(what)}. {tex(note_of(lines))}}}",
            r"\label{tab:summary}",
            r"\begin{tabular}{@{}llrrrrrr@{}}",
            r"\toprule",
            " & ".join(tex(cell.format(unit)) for cell in _HEAD) + r" \\",
            " & ".join(tex(cell) for cell in _BELOW) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _entries(line: Mapping[str, Any], unit_s: float) -> list[str]:
    top1 = f"{line['top1_last_percent']:.2f}"
    if line["top1_last_percent_ci95"] is not None:
        top1 += f" ± {line['top1_last_percent_ci95']:.2f}"
    return [
        model_name(line["model"]),
        line["strategy"],
        str(line["n"]),
        top1,
        f"{line['train_s'] / unit_s:.2f}",
        _versus(line, "step_ratio"),
        _versus(line, "saved_activations_ratio"),
        f"{line['tokens_first']} → {line['tokens_final']}",
    ]


def _versus(line: Mapping[str, Any], ratio: str) -> str:
    """Predicted and measured ratio; a dash for a missing one. The baseline is its own measure."""
    if line["strategy"] == "baseline":
        return "1"
    measured = "–" if line[ratio] is None else f"{line[ratio]:.3f}"
    return f"{line['token_share']:.3f} → {measured}"


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
