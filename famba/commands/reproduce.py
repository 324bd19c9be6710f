"""`famba reproduce`: retrain rows from what they record of themselves, and report field by field what agrees."""

import argparse
import functools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from famba.checks.reproduction import (
    CURVES,
    METRICS,
    Field,
    Reproduction,
    Result,
    compare,
    noise_floor,
    read_result,
    shown,
    train_again,
    warn,
)
from famba.config.datasets import DATA_HELP, data_folder
from famba.errors import CheckFailed, InputError
from famba.results.tables import Column, table
from famba.text import count


def report(comparison: Reproduction) -> str:
    """The table: accuracies and losses, all that is not identical, and a line for what is of each part of a row."""
    lines = []
    rest = []
    for field in comparison.fields:
        if field.verdict == "identical" and field.name not in (*METRICS, *CURVES):
            rest.append(field)
        else:
            name = field.name if field.epoch is None else f"{field.name} (epoch {field.epoch})"
            lines.append((name, shown(field.recorded), shown(field.now), field.verdict))
    for part, group in groupby(sorted(rest, key=_part), key=_part):
        n = len(list(group))
        lines.append((f"{part} ({count(n, 'field')})", "", "", "identical"))
    columns = [Column(name) for name in ("field", "recorded", "now", "verdict")]
    return table(columns, lines).markdown + "\n"


def _part(field: Field) -> str:
    part, dot, _ = field.name.partition(".")
    return part if dot else "row"


def compared_with(comparison: Reproduction) -> str:
    """What the numbers were compared with, in one line."""
    if not comparison.conditions:
        return "Compared bit for bit, because CPU, threads, packages and code are the same."
    if not comparison.floor:
        return (
            "Compared bit for bit, because there is no noise floor: it needs two seeds of this model (--floor ROW...)."
        )
    return (
        f"Compared with the scatter between seeds, known with {comparison.floor[METRICS[0]][0].df} degrees of freedom."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba reproduce`."""
    parser.description = (
        "Retrain each row from what it records of itself, and report field by field what agrees: bit for "
        "bit on the same CPU with the same threads, packages and code, within the noise floor elsewhere. Exit status "
        "1 if something that must agree does not. "
        "Example: famba reproduce results/smoke/cells/vim_tiny_mini-upper-s0/row.json"
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")
    parser.add_argument(
        "--with",
        dest="others",
        nargs="+",
        type=Path,
        metavar="ROW",
        help="train nothing: compare with these rows of the same cells",
    )
    parser.add_argument(
        "--floor",
        nargs="+",
        type=Path,
        default=[],
        metavar="ROW",
        help="rows of other seeds, for the noise floor; those beside a row are used anyway",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the new trainings here, a folder for each row [they are deleted]"
    )
    parser.add_argument("--data", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)


def main(args: argparse.Namespace) -> None:
    if args.others and args.out:
        raise InputError(f"--out {args.out}: with --with nothing is trained, and so nothing to keep; leave it out")
    rows = _by_id(args.rows)
    others = _by_id(args.others) if args.others else {}
    for cell, recorded in rows.items():
        if others and cell not in others:
            raise InputError(f"{recorded.path}: none of the rows given with --with is called {cell}")
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="famba-reproduce-") as scratch:
        for cell, recorded in rows.items():
            again = others.get(cell) or train_again(recorded, _folder(recorded, args.out or Path(scratch)), args.data)
            comparison = compare(recorded, again, noise_floor(_seeds(recorded, args.floor), recorded))
            if others:
                warn(cell, comparison.conditions)
            print(f"{recorded.path} and {again.path if others or args.out else 'a new training'}")
            print(f"{compared_with(comparison)}\n\n{report(comparison)}")
            counts = Counter(field.verdict for field in comparison.fields)
            print(f"{cell}: {', '.join(f'{n} {verdict}' for verdict, n in counts.most_common())}\n", flush=True)
            failed += [
                f"{field.name} of {cell} was {shown(field.recorded)}, is {shown(field.now)}"
                for field in comparison.fields
                if field.verdict == "differs"
            ]
    if failed:
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise CheckFailed(f"not reproduced: {'; '.join(failed[:3])}{more}")


def _by_id(paths: Sequence[Path]) -> Mapping[str, Result]:
    results: dict[str, Result] = {}
    for path in paths:
        result = read_result(path)
        first = results.setdefault(result.row.id, result)
        if first is not result:
            raise InputError(f"{first.path} and {path} are both row {result.row.id}; give each cell once")
    return results


def _folder(recorded: Result, out: Path) -> Path:
    folder = out / recorded.row.id
    if folder.resolve() == recorded.path.parent.resolve():
        raise InputError(f"--out {out}: {recorded.path} would be overwritten; name another folder")
    return folder


def _seeds(recorded: Result, more: Sequence[Path]) -> list[Result]:
    """The rows that may tell the noise floor: those in the same folder of cells, then `more`."""
    beside = sorted(recorded.path.parent.parent.glob("*-s*/row.json"))
    return [_read_once(path) for path in dict.fromkeys(path.resolve() for path in (*beside, *more))]


_read_once = functools.cache(read_result)
