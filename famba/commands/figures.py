"""`famba figures`: draw the figures of an experiment from its rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from famba.claims import ledger
from famba.claims.sweeps import SWEEPS
from famba.commands.options import add_ledger
from famba.errors import InputError
from famba.figures import NAMES, TOKEN_NAMES
from famba.text import count, install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba figures`."""
    parser.description = (
        f"Draw {', '.join(NAMES + TOKEN_NAMES)}, each as .svg and .png; "
        f"and {' and '.join(sweep.name for sweep in SWEEPS)} where strategies are of the paper's studies "
        "(start_15, tokens_9). epochs.csv and tokens.npz are read "
        "beside each row. "
        "Example: famba figures --out results/smoke/figures results/smoke/cells/*/row.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the figures")
    add_ledger(parser, "published numbers")
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    try:
        from famba.figures.draw import draw  # noqa: PLC0415 (imports matplotlib: a second that --help need not wait)
    except ModuleNotFoundError as error:
        raise InputError(f"the figures need {error.name}, which is not installed: {install('pipeline')}") from None

    names, bare = draw(args.rows, args.out, args.claims or ledger.of_rows(args.rows))
    print(f"{args.out}: {', '.join(names)} (.svg, .png)")
    if bare:
        print(f"not drawn: {', '.join(TOKEN_NAMES)}; no tokens.npz beside {count(len(bare), 'row')}, such as {bare[0]}")
