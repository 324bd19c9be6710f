"""`famba figures`: draw the figures of an experiment from its rows."""

import argparse
from pathlib import Path

from famba.claims import ledger
from famba.claims.sweeps import SWEEPS
from famba.commands.options import add_ledger
from famba.errors import InputError
from famba.figures import FORMATS, NAMES, TOKEN_NAMES
from famba.figures.look import FAMBAS, read_look
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
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="draw only this figure; may be given several times"
    )
    parser.add_argument("--width", type=_inches, metavar="IN", help="inches, 2 to 20 [3.4, a column of a paper]")
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="may be given several times [svg and png; the page embeds the .svg]",
    )
    parser.add_argument(
        "--style",
        type=Path,
        metavar="FILE",
        help="names, colours and markers of strategies and models, YAML or JSON: docs/experiments.md",
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    try:
        # they import matplotlib: a second that --help need not wait
        from famba.figures.draw import draw  # noqa: PLC0415
        from famba.figures.results import read_results  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(f"the figures need {error.name}, which is not installed: {install('pipeline')}") from None

    look = read_look(args.style) if args.style else FAMBAS
    results = read_results(args.rows, args.claims or ledger.of_rows(args.rows), look)
    given = {"inches": args.width, "formats": args.format}
    names, bare = draw(results, args.out, args.only, **{name: value for name, value in given.items() if value})
    print(f"{args.out}: {', '.join(names)} ({', '.join(f'.{form}' for form in args.format or FORMATS[:2])})")
    for line in look.unknown(results.strategies, results.models):
        print(f"{args.style}: {line}")
    if bare and not args.only:
        print(f"not drawn: {', '.join(TOKEN_NAMES)}; no tokens.npz beside {count(len(bare), 'row')}, such as {bare[0]}")


def _inches(text: str) -> float:
    if not 2 <= (inches := float(text)) <= 20:  # false for nan as well
        raise ValueError
    return inches


_inches.__name__ = "width in inches (2 to 20)"  # what argparse calls it in its message
