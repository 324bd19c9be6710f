"""What `famba judge` wrote beside the page, read back: the report judges and averages nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from famba.claims.ledger import Ledger
from famba.claims.verdicts import Verdicts
from famba.config.validation import read_json
from famba.errors import InputError
from famba.results.row import Row, grouped
from famba.results.summary import Line, summarise
from famba.results.summary_table import JUDGE_FIRST, read_summary
from famba.text import six_digits


@dataclass(frozen=True)
class Judged:
    """The summary's lines and the verdicts; `files`: the texts of these and of their tables, by name."""

    lines: list[Line]
    verdicts: Verdicts
    files: Mapping[str, str]


_NAMES = ("model", "strategy", "seeds", "top1_last_percent")  # what tells the lines of some rows from those of others
FILES = ("summary.csv", "tables/summary.md", "tables/summary.tex", "tables/verdicts.md", "tables/verdicts.tex")


def read(folder: Path, rows: Mapping[Path, Row], ledger: Ledger) -> Judged:
    """Read all of it. Raises InputError where something is missing, broken, or of other rows or another ledger."""
    path = folder / "claims.json"
    again = f"; {JUDGE_FIRST}"
    verdicts = read_json(Verdicts, path, "file of verdicts", absent=again, invalid=again)
    if {verdict.id for verdict in verdicts.verdicts} != {claim.id for claim in ledger.judged}:
        raise InputError(f"{path}: its claims are not the ledger's; run famba judge with the same --claims")
    files = {name: _text(folder / name) for name in FILES}
    fields = summarise(dict([next(iter(rows.items()))]))[0]
    lines = read_summary(folder / "summary.csv", fields)
    if [tuple(line[name] for name in _NAMES) for line in lines] != _of(rows):
        raise InputError(f"{folder / 'summary.csv'}: of other rows than these; {JUDGE_FIRST}")
    return Judged(lines, verdicts, files)


def _of(rows: Mapping[Path, Row]) -> list[tuple[str, str, str, float]]:
    """`_NAMES` of each line that the rows give."""
    lines = []
    for (model, strategy), group in grouped(rows.values(), lambda row: (row.cell.model, row.cell.strategy)).items():
        seeds = " ".join(str(row.cell.seed) for row in group)
        lines.append((model, strategy, seeds, six_digits(fmean(row.metrics.last.top1 for row in group))))
    return lines


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise InputError(f"{path}: cannot read it ({reason}); {JUDGE_FIRST}") from None
