"""`famba report`: write the results of an experiment as one page."""

import argparse
from pathlib import Path

from famba.claims import ledger
from famba.commands.options import add_ledger
from famba.errors import InputError
from famba.files import write_text
from famba.text import count, install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba report`."""
    parser.description = (
        "Write the page, beside it the same as .md and .tex, and the paper's tables as .csv: published and "
        "measured numbers, one per line. It reads, from the page's folder, what famba judge wrote, and figures/ and "
        "audit/ if they exist. "
        "Example: famba report --out results/smoke/report.html results/smoke/cells/*/row.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page, a .html file")
    add_ledger(parser, "the ledger that the rows were judged by")
    parser.add_argument(
        "--deviations",
        type=Path,
        default=Path("docs/deviations.md"),
        metavar="FILE",
        help="where paper, figures and released code differ [docs/deviations.md]",
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a prediction by famba plan --json, to stand beside")
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    if args.out.suffix != ".html":
        raise InputError(f"--out {args.out}: the page is a .html file; .md and .tex are written beside it")
    try:
        from famba.report import page  # noqa: PLC0415 (imports jinja2 and scipy: --help need not wait for them)
    except ModuleNotFoundError as error:
        raise InputError(f"the report needs {error.name}, which is not installed: {install('pipeline')}") from None

    claims = args.claims or ledger.of_rows(args.rows)
    report = page.read(args.rows, claims, args.deviations, args.plan, args.out.parent)
    texts = {
        ".html": page.html(report), ".md": page.markdown(report), ".tex": page.latex(report), ".csv": page.csv(report)
    }  # fmt: skip
    for suffix, text in texts.items():
        write_text(args.out.with_suffix(suffix), text)
    print(f"{args.out}: {count(len(report.rows), 'row')}; also .md, .tex and .csv")
