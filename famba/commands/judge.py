"""`famba judge`: the summary of result rows as CSV, JSON, Markdown and LaTeX, and a verdict on every claim."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from famba.claims import ledger, noise, verdicts
from famba.claims import tables as verdict_tables
from famba.commands.options import add_ledger, add_repeats
from famba.files import atomic_file
from famba.results.summary import compared, described, read_rows, shared_note, summarise
from famba.results.tables import latex, markdown
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


def main(args: argparse.Namespace) -> int:
    rows = read_rows(args.rows)
    lines = summarise(rows)
    floor = noise.noise_floor(list(rows.values()), noise.read_repeats(args.repeats, rows))
    judged = verdicts.judge(ledger.load(args.claims or ledger.of_rows(args.rows)), list(rows.values()), floor)
    rounded = [{key: six_digits(value) for key, value in line.items()} for line in lines]
    with atomic_file(args.out / "summary.csv") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rounded)
    for name, text in (
        ("summary.json", json.dumps(compared(rounded), indent=1) + "\n"),
        ("tables/summary.md", markdown(lines, described(rows))),
        ("tables/summary.tex", latex(lines, described(rows))),
        ("claims.json", judged.model_dump_json(indent=1) + "\n"),
        ("tables/verdicts.md", verdict_tables.markdown(judged, described(rows))),
        ("tables/verdicts.tex", verdict_tables.latex(judged, described(rows))),
    ):
        with atomic_file(args.out / name) as file:
            file.write(text)
    told = f"{count(len(lines), 'line')} from {count(len(rows), 'row')}; {verdict_tables.counted(judged)}"
    print(f"{args.out / 'summary.csv'}: {told}")
    if shared := shared_note(lines):
        print(shared)
    return 0
