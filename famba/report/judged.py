"""What `famba judge` wrote beside the page, read back: the report judges and averages nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from famba.claims.ledger import Ledger
from famba.claims.verdicts import Verdicts
from famba.config.validation import read_json
from famba.errors import InputError
from famba.results.row import Row
from famba.results.summary import Line, summarise
from famba.results.summary_table import JUDGE_FIRST, read_summary


@dataclass(frozen=True)
class Judged:
    """The summary's lines and the verdicts; `files`: the texts of these and of their tables, by name."""

    lines: list[Line]
    verdicts: Verdicts
    files: Mapping[str, str]


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
    if [(line["model"], line["strategy"], line["seeds"]) for line in lines] != _cells(rows):
        raise InputError(f"{folder / 'summary.csv'}: of other rows than these; {JUDGE_FIRST}")
    return Judged(lines, verdicts, files)


def _cells(rows: Mapping[Path, Row]) -> list[tuple[str, str, str]]:
    """Model, strategy and seeds of each line that the rows give."""
    groups = groupby(rows.values(), key=lambda row: (row.cell.model, row.cell.strategy))
    return [(*cell, " ".join(str(row.cell.seed) for row in group)) for cell, group in groups]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise InputError(f"{path}: cannot read it ({reason}); {JUDGE_FIRST}") from None
