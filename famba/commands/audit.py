"""`famba audit`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from famba.claims import ledger
from famba.claims.audit import document, page
from famba.claims.published import PublishedRow
from famba.files import write_text
from famba.results.tables import csv_of

_CHECKOUT = Path(__file__).resolve().parents[2]
COLUMNS = (
    "table", "model", "strategy", "tokens_per_layer", "starting_layer", "top1", "top5", "time_s", "memory_mib",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba audit`."""
    parser.description = (
        "Compare the paper's published numbers with each other, without any training: which reading of the "
        "method its memory supports, which part of its time depends on tokens, and which of its statements its tables "
        "bear out. Prints the main findings; --out writes audit.json, audit.md, published.csv and the figures."
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write everything to")
    parser.add_argument(
        "--claims",
        type=Path,
        metavar="FILE",
        help=f"ledger that holds the published tables [{ledger.PUBLISHED} here, else the one of the checkout]",
    )


def main(args: argparse.Namespace) -> None:
    path = args.claims or (ledger.PUBLISHED if ledger.PUBLISHED.exists() else _CHECKOUT / ledger.PUBLISHED)
    rows = ledger.published_rows(path)
    found = document.audit(rows, ledger.load(path).sources.get("paper", str(path)))
    if args.out:
        from famba.figures import audit  # noqa: PLC0415 (drawing takes seconds to load, and printing needs none)

        write_published(rows, args.out / "published.csv")
        for name, text in (("audit.json", found.model_dump_json(indent=1) + "\n"), ("audit.md", page.markdown(found))):
            write_text(args.out / name, text)
        audit.draw(rows, args.out)
    print(page.findings(found), end="")


def write_published(rows: Sequence[PublishedRow], path: Path) -> None:
    """Every row of the published tables as CSV; what a table does not list stays empty."""
    lines = [
        (row.table, row.model, row.strategy, row.r, row.start, row.top1, row.top5, row.time_s, row.memory_mib)
        for row in rows
    ]
    write_text(path, csv_of([COLUMNS, *lines]))
