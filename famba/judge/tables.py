"""The summary as a table for people: Markdown for the terminal and a README, LaTeX (booktabs) for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from famba.judge.summary import shared_note
from famba.wording import SMOKE_NOTE, model_name

_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
        "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "→": r"$\to$", "±": r"$\pm$",
        "×": r"$\times$", "–": "--", "−": "$-$",
    }
)  # fmt: skip
NOTE = (
    "Top-1: last epoch, mean ± 95 % interval over n seeds (Student t; none for one seed). Time: training, without "
    "evaluation and each run's first step, by the wall clock. Memory: activations saved for the backward pass. Ratios: "
    "to the model without fusion, of a step's time (on a CPU: CPU time, in pairs with an unfused step where the row "
    "has that) and of memory; predicted from the tokens summed over layers."
)
_HEAD = ("model", "strategy", "n", "top-1 (%)", "time ({})", "step time ratio", "memory ratio", "tokens")
_BELOW = ("", "", "", "", "", "pred. → meas.", "pred. → meas.", "first → final")


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that a person would choose for a duration, and its seconds."""
    return next(((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * size), ("s", 1.0))


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


def tex(text: str) -> str:
    """Text as LaTeX sets it, in ASCII but for what has no command."""
    return text.translate(_TEX)
