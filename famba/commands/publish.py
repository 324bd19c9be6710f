"""`famba publish`: rows of several machines as one published set, and a page that compares its methods."""

import argparse
import sys
from pathlib import Path

from famba.errors import CheckFailed, InputError
from famba.text import count, install, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba publish`."""
    parser.description = (
        "Add the rows of folders or zip archives to a published set, each once and with its origin, and write its "
        "page. A row that is damaged, of the smoke protocol or breaks its protocol's rules is left out, with a line "
        "that says why, and the exit status is then 1. Without a FOLDER the page is rewritten. "
        "Example: famba publish results/mine --source 'Jane Doe, Example Lab' --out site"
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="results, an RO-Crate, a zip of either")
    parser.add_argument("--source", type=_source, metavar="NAME", help="who trained the rows, and where; is published")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="SITE", help="the published set: a new or an existing folder"
    )


def main(args: argparse.Namespace) -> None:
    try:
        from famba.report.leaderboard import contribution, page, shared  # noqa: PLC0415 (jinja2, matplotlib)
    except ModuleNotFoundError as error:
        raise InputError(f"the page needs {error.name}, which is not installed: {install('pipeline')}") from None

    before = shared.load(args.out)
    accepted, refused = [], []
    for folder in args.folders:
        found, problems = contribution.read(folder, args.source)
        accepted += found
        refused += problems
    for problem in refused:
        print(f"left out: {problem}", file=sys.stderr)
    rows = shared.merged([*before.values(), *accepted])
    left_out = f"{count(len(refused), 'row')} left out, for the reasons above" if refused else ""
    if refused and not rows:
        raise CheckFailed(f"nothing to publish: {left_out}")
    if not rows:
        raise InputError(f"{args.out}: no rows there and none given; name a folder of results")
    sections = page.sections(rows)
    shared.write(args.out, rows)
    shared.write_bytes(args.out / page.CSV, page.csv(sections).encode())
    shared.write_bytes(args.out / shared.PAGE, page.page(rows, sections).encode())
    lines = count(sum(len(section.lines) for section in sections), "line")
    print(f"{args.out / shared.PAGE}: {count(len(rows), 'row')} in {lines}; {len(rows) - len(before)} of them new")
    if refused:
        raise CheckFailed(left_out)


def _source(text: str) -> str:
    if not 0 < len(shown := one_line(text)) <= 200:
        raise ValueError
    return shown


_source.__name__ = "name of at most 200 characters"  # what argparse calls it in its message
