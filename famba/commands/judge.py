"""`famba judge`: what result rows say: their summary, verdicts on claims, strategies in pairs, times to a target."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from famba.claims import ledger, noise, tables, verdicts
from famba.commands.options import add_ledger, add_repeats
from famba.errors import InputError
from famba.files import write_text
from famba.results.pairs import compare
from famba.results.summary import read_rows, shared_note, summarise
from famba.results.targets import measure
from famba.text import count, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba judge`."""
    parser.description = (
        "Write the summary, verdicts on claims, comparisons of strategies on the same test images, and times to a "
        "target accuracy: numbers as .json and .csv, tables as .md and .tex in tables/. "
        "Example: famba judge --out results/smoke results/smoke/cells/*/row.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the experiment's results")
    add_ledger(parser, "claims and their tests")
    add_repeats(parser)
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        type=_target,
        metavar="[MODEL=]TOP1",
        help="accuracy, in percent, to which the time is measured [the ledger's, else the highest that every training "
        "of the model reaches]; may be given for several models",
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def main(args: argparse.Namespace) -> None:
    rows = read_rows(args.rows)
    claims = ledger.load(args.claims or ledger.of_rows(args.rows))
    targets = _targets(args.target, claims, dict.fromkeys(row.cell.model for row in rows.values()))
    floor = noise.noise_floor(list(rows.values()), noise.read_repeats(args.repeats, rows))
    judged = verdicts.judge(claims, list(rows.values()), floor)
    paired, reached = compare(rows, judged.digest), measure(rows, judged.digest, targets)
    for name, text in tables.files(rows, judged, paired, reached).items():
        write_text(args.out / name, text)
    lines = summarise(rows)
    said = f"{count(len(lines), 'line')} from {count(len(rows), 'row')}; {tables.counted(judged)}"
    print(f"{args.out / 'summary.csv'}: {said}")
    for note in filter(None, (shared_note(lines), *paired.left_out, *reached.left_out)):
        print(note)


def _target(text: str) -> tuple[str | None, float]:
    model, _, percent = text.rpartition("=")
    if not 0 <= (top1 := float(percent)) <= 100:  # false for nan as well
        raise ValueError
    return model or None, top1


_target.__name__ = "accuracy in percent"  # what argparse calls it in its message


def _targets(
    given: Sequence[tuple[str | None, float]], claims: ledger.Ledger, models: Collection[str]
) -> dict[str, tuple[float, str]]:
    """Target and who chose it, by model. Raises InputError for a model that the rows are not of."""
    targets = {model: (top1, "of the ledger") for model, top1 in claims.targets.items()}
    for model, top1 in sorted(given, key=lambda one: one[0] is not None):  # a model's own beats one for all
        if model is not None and model not in models:
            raise InputError(f"--target {model}={top1:g}: no row is of this model{nearest(model, models)}")
        targets |= dict.fromkeys([model] if model else models, (top1, "given with --target"))
    return targets
