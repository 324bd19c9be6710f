"""The report of an experiment: one HTML file that stands alone, Markdown for a README, LaTeX for a paper.

Its numbers are those of `famba judge` and `famba figures`. Identical rows give identical files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from famba.errors import InputError
from famba.record import atomic_file


def add_parser(commands: Any) -> None:
    """`famba report`."""
    parser = commands.add_parser(
        "report",
        help="write the results of an experiment as one page",
        description="Write the page, and beside it the same as .md and .tex. epochs.csv is read beside each row, and "
        "figures/ beside the page. "
        "Example: famba report --out results/smoke/report.html results/smoke/cells/*/row.json",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page, a .html file")
    parser.add_argument(
        "--claims",
        type=Path,
        default=Path("config/claims.yaml"),
        metavar="FILE",
        help="claims and their tests [config/claims.yaml]",
    )
    parser.add_argument(
        "--deviations",
        type=Path,
        default=Path("docs/deviations.md"),
        metavar="FILE",
        help="where paper, figures and released code disagree [docs/deviations.md]",
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a prediction by famba plan --json, to stand beside")
    parser.add_argument(
        "--repeats", nargs="+", default=[], type=Path, metavar="ROW", help="further runs, as famba judge takes them"
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")
    parser.set_defaults(func=_main)


def _main(args: argparse.Namespace) -> int:
    if args.out.suffix != ".html":
        raise InputError(f"--out {args.out}: the page is a .html file; .md and .tex are written beside it")
    try:
        from famba.report import page  # noqa: PLC0415 (imports pandas and matplotlib: --help need not wait for them)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the report needs {error.name}, which is not installed: pip install 'famba[pipeline]'"
        ) from None

    report = page.read(args.rows, args.claims, args.repeats, args.deviations, args.plan, args.out.parent)
    texts = {".html": page.html(report), ".md": page.markdown(report), ".tex": page.latex(report)}
    for suffix, text in texts.items():
        with atomic_file(args.out.with_suffix(suffix)) as file:
            file.write(text)
    print(f"{args.out}: {len(report.rows)} rows; also .md and .tex")
    return 0
