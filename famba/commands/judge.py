"""`famba judge`: the summary of result rows as CSV, JSON, Markdown and LaTeX, and a verdict on every claim."""

from __future__ import annotations

import argparse
from pathlib import Path

from famba.claims import ledger, noise, tables, verdicts
from famba.commands.options import add_ledger, add_repeats
from famba.files import write_text
from famba.results.summary import read_rows, shared_note, summarise
from famba.text import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba judge`."""
    parser.description = (
        "Write summary.csv, summary.json, claims.json, and tables/summary and tables/verdicts as .md and .tex. "
        "Example: famba judge --out results/smoke results/smoke/cells/*/row.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the experiment's results")
    add_ledger(parser, "claims and their tests")
    add_repeats(parser)
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    rows = read_rows(args.rows)
    floor = noise.noise_floor(list(rows.values()), noise.read_repeats(args.repeats, rows))
    judged = verdicts.judge(ledger.load(args.claims or ledger.of_rows(args.rows)), list(rows.values()), floor)
    for name, text in tables.files(rows, judged).items():
        write_text(args.out / name, text)
    lines = summarise(rows)
    said = f"{count(len(lines), 'line')} from {count(len(rows), 'row')}; {tables.counted(judged)}"
    print(f"{args.out / 'summary.csv'}: {said}")
    if shared := shared_note(lines):
        print(shared)
