"""`famba judge`: the summary of result rows as CSV, JSON, Markdown and LaTeX, and a verdict on every claim."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from famba.claims import ledger, noise, verdicts
from famba.claims.tables import counted, verdict_table
from famba.commands.options import add_ledger, add_repeats
from famba.files import write_text
from famba.results.summary import compared, described, read_rows, shared_note, summarise
from famba.results.summary_table import summary_csv, summary_table
from famba.text import count, six_digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba judge`."""
    parser.description = (
        "Write summary.csv, summary.json, claims.json, and tables/summary and tables/verdicts as .md and "
        ".tex. "
        "Example: famba judge --out results/smoke results/smoke/cells/*/row.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the experiment's results")
    add_ledger(parser, "claims and their tests")
    add_repeats(parser)
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    rows = read_rows(args.rows)
    lines = summarise(rows)
    floor = noise.noise_floor(list(rows.values()), noise.read_repeats(args.repeats, rows))
    judged = verdicts.judge(ledger.load(args.claims or ledger.of_rows(args.rows)), list(rows.values()), floor)
    rounded = [{key: six_digits(value) for key, value in line.items()} for line in lines]
    summary, decided = summary_table(lines, described(rows)), verdict_table(judged, described(rows))
    for name, text in (
        ("summary.csv", summary_csv(lines)),
        ("summary.json", json.dumps(compared(rounded), indent=1) + "\n"),
        ("tables/summary.md", summary.markdown_page),
        ("tables/summary.tex", summary.latex_float),
        ("claims.json", judged.model_dump_json(indent=1) + "\n"),
        ("tables/verdicts.md", decided.markdown_page),
        ("tables/verdicts.tex", decided.latex_float),
    ):
        write_text(args.out / name, text)
    said = f"{count(len(lines), 'line')} from {count(len(rows), 'row')}; {counted(judged)}"
    print(f"{args.out / 'summary.csv'}: {said}")
    if shared := shared_note(lines):
        print(shared)
