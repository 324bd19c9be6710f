"""The verdicts as a table for people, and the files that `famba judge` writes."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from famba.claims.verdicts import Verdict, Verdicts, by_reason
from famba.results import pairs, pairs_table, targets, targets_table
from famba.results.pairs import Paired
from famba.results.row import Row
from famba.results.summary import compared, described, summarise
from famba.results.summary_table import rounded, summary_csv, summary_table
from famba.results.tables import DASH, Column, Table, effect_size, in_unit, table
from famba.results.targets import Targets
from famba.text import count

_NOTE = (
    "Mean over n seeds with its 95 % interval (Student t; none of n < 3), of the comparison on which the verdict "
    "turns; effect size: distance from the claimed number in standard deviations of one seed. {accuracies} Reproduced, "
    "not reproduced: shown at the 5 % level; inconclusive: neither is; not tested: these rows are not of the kind that "
    "the claim is about."
)
_ACCURACIES = {
    "best": "Accuracies are the best epoch's on the test set, as the published ones are.",
    "last": "Accuracies are the last epoch's.",
}


def note(verdicts: Verdicts) -> str:
    """How to read the table."""
    return _NOTE.format(accuracies=_ACCURACIES[verdicts.accuracy])


def counted(verdicts: Verdicts) -> str:
    """How many claims got which verdict, in a line."""
    counts = Counter(verdict.verdict for verdict in verdicts.verdicts)
    return ", ".join(f"{count(n, 'claim')} {verdict}" for verdict, n in counts.items())


def verdict_table(verdicts: Verdicts, run: str) -> Table:
    """A line per verdict, and a sentence for verdicts that share a reason. `run`: what was run."""
    alone, shared = by_reason(verdicts.verdicts)
    columns = (
        Column("claim", wide=0.26), Column("recipe"), Column("verdict"), Column("mean [95 %]"), Column("n", "r"),
        Column("effect", "r"), Column("why", wide=0.26),
    )  # fmt: skip
    return table(
        columns, map(_entries, alone), id="verdicts", run=run, note=note(verdicts), smoke=bool(verdicts.watermark),
        sentences=[f"{group.line}." for group in shared], size=r"\footnotesize",
    )  # fmt: skip


def files(rows: Mapping[Path, Row], verdicts: Verdicts, paired: Paired, reached: Targets) -> dict[str, str]:
    """Text of each file that `famba judge` writes, by its name; claims.json, which says what they are of, is the last.

    `famba report` refuses files with other texts.
    """
    lines, run = summarise(rows), described(rows)
    summary, decided = summary_table(lines, run), verdict_table(verdicts, run)
    on_images, timed = pairs_table.tables(paired, run), targets_table.targets_table(reached, run)
    return {
        "summary.csv": summary_csv(lines),
        "summary.json": json.dumps(compared(rounded(lines)), indent=1) + "\n",
        "tables/summary.md": summary.markdown_page,
        "tables/summary.tex": summary.latex_float,
        "tables/verdicts.md": decided.markdown_page,
        "tables/verdicts.tex": decided.latex_float,
        pairs.NAME: paired.model_dump_json(indent=1) + "\n",
        "paired.csv": pairs_table.csv(paired),
        "tables/paired.md": "\n".join(found.markdown_page for found in on_images),
        "tables/paired.tex": on_images[0].latex_float,
        targets.NAME: reached.model_dump_json(indent=1) + "\n",
        "targets.csv": targets_table.csv(reached),
        "tables/targets.md": timed.markdown_page,
        "tables/targets.tex": timed.latex_float,
        "claims.json": verdicts.model_dump_json(indent=1) + "\n",
    }


def _entries(verdict: Verdict) -> tuple[str, ...]:
    mean, unit = DASH, verdict.unit
    if verdict.mean is not None and unit is not None:
        mean = in_unit(verdict.mean, unit)
        if verdict.low is not None and verdict.high is not None:
            mean += f" [{in_unit(verdict.low, unit)}, {in_unit(verdict.high, unit)}]"
        mean += f" {unit}"
    return (
        verdict.quote,
        verdict.recipe,
        verdict.verdict,
        mean,
        DASH if verdict.n is None else str(verdict.n),
        effect_size(verdict.effect_size),
        verdict.reason,
    )
