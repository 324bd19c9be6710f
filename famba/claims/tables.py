"""The verdicts as a table for people, Markdown and LaTeX."""

from __future__ import annotations

from collections import Counter

from famba.claims.shared import by_reason
from famba.claims.verdicts import Verdict, Verdicts
from famba.text import SMOKE_NOTE, count, tex

_NOTE = (
    "Mean over n seeds with its 95 % interval (Student t), of the comparison on which the verdict turns; effect size: "
    "distance from the claimed number in standard deviations of one seed. {accuracies} Reproduced, not reproduced: "
    "shown at the 5 % level; inconclusive: neither is; not tested: these rows are not of the kind that the claim is "
    "about."
)
_ACCURACIES = {
    "best": "Accuracies are the best epoch's on the test set, as the published ones are.",
    "last": "Accuracies are the last epoch's.",
}
_HEAD = ("claim", "recipe", "verdict", "mean [95 %]", "n", "effect", "why")


def note(verdicts: Verdicts) -> str:
    """How to read the table."""
    return _NOTE.format(accuracies=_ACCURACIES[verdicts.accuracy])


def counted(verdicts: Verdicts) -> str:
    """How many claims got which verdict, in a line."""
    counts = Counter(verdict.verdict for verdict in verdicts.verdicts)
    return ", ".join(f"{count(n, 'claim')} {verdict}" for verdict, n in counts.items())


def markdown(verdicts: Verdicts, what: str) -> str:
    """A Markdown table, with what was run and how to read it; a line for verdicts that share a reason. Ends in a
    newline."""
    smoke = [f"**{SMOKE_NOTE}.**"] if verdicts.watermark else []
    alone, shared = by_reason(verdicts.verdicts)
    lines = [_HEAD, tuple("---" for _ in _HEAD), *map(_entries, alone)] if alone else []
    table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    parts = [[f"Run: {what}."], table, [f"* {group.line}." for group in shared], [note(verdicts)]]
    return "\n\n".join("\n".join(part) for part in [smoke, *parts] if part) + "\n"


def latex(verdicts: Verdicts, what: str) -> str:
    """A floating table that needs the package booktabs; a line for verdicts that share a reason. Ends in a newline."""
    smoke = rf"\textbf{{{SMOKE_NOTE}.}} " if verdicts.watermark else ""
    alone, shared = by_reason(verdicts.verdicts)
    wide = r">{\raggedright\arraybackslash}p{0.26\textwidth}"
    return "\n".join(
        [
            r"% needs \usepackage{array,booktabs}",
            r"\begin{table*}[t]",
            r"\centering\footnotesize",
            rf"\caption{{{smoke}Run: {tex(what)}. {tex(note(verdicts))}}}",
            r"\label{tab:verdicts}",
            rf"\begin{{tabular}}{{@{{}}{wide}lllrr{wide}@{{}}}}",
            r"\toprule",
            " & ".join(map(tex, _HEAD)) + r" \\",
            r"\midrule",
            *(" & ".join(map(tex, _entries(verdict))) + r" \\" for verdict in alone),
            *(rf"\multicolumn{{7}}{{@{{}}p{{0.9\textwidth}}@{{}}}}{{{tex(group.line)}.}} \\" for group in shared),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _entries(verdict: Verdict) -> tuple[str, ...]:
    mean = "–" if verdict.mean is None else f"{verdict.mean:.4g}"
    if verdict.low is not None and verdict.high is not None:
        mean += f" [{verdict.low:.4g}, {verdict.high:.4g}]"
    return (
        verdict.quote,
        verdict.recipe,
        verdict.verdict,
        f"{mean} {verdict.unit}" if verdict.mean is not None and verdict.unit else mean,
        "–" if verdict.n is None else str(verdict.n),
        "–" if verdict.effect_size is None else f"{verdict.effect_size:.2g}",
        verdict.reason,
    )
