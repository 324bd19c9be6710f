"""`famba check`: rows against a frozen baseline, another protocol or the written rules; exit status 1 on a failure."""

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from famba.checks import baseline, equivalence, gate, rules
from famba.errors import CheckFailed, InputError
from famba.files import atomic_file, write_text
from famba.results import tables
from famba.results.row import rows_of
from famba.results.summary import read_rows
from famba.results.tables import Column
from famba.text import count


@dataclass(frozen=True)
class Outcome:
    """One line of a check, as every output needs it."""

    columns: tuple[str, ...]
    check: str
    subject: str
    failed: bool
    detail: str
    asked: bool = True  # false where a rule asks nothing, or its file was left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba check`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Compare result rows with a frozen baseline, another protocol or the written rules. Prints a\n"
        "table, and exits with status 1 if a check fails. GitHub's job summary (GITHUB_STEP_SUMMARY) gets the table\n"
        "too.\n\n"
        "  famba check --against results/baselines/smoke.json results/smoke/cells/*/row.json\n"
        "  famba check --equals results/paper results/fast/cells/*/row.json"
    )
    parser.epilog = f"{gate.__doc__}\n{equivalence.__doc__}\nThe rules:\n{rules.written()}"
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", type=Path, metavar="FILE", help="frozen baseline to compare the rows with")
    what.add_argument("--rules", action="store_true", help="check each row against the written rules (below)")
    what.add_argument(
        "--equals", type=Path, metavar="FOLDER", help="show that the rows reach the accuracy of this experiment"
    )
    what.add_argument("--freeze", type=Path, metavar="FILE", help="write the rows as the baseline, three seeds or more")
    parser.add_argument(
        "--without-times", action="store_true", help="freeze no times: the machine was shared while the rows were made"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write the outcome as JUnit XML")
    parser.add_argument(
        "--time-margin",
        type=_share,
        metavar="SHARE",
        help=f"how much larger than in the frozen baseline a time ratio may be [{gate.TIME_MARGIN}]",
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="result rows (row.json)")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not (math.isfinite(share) and share >= 0):  # with nan or inf nothing would ever be too slow
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number from 0 on")
    return share


def _require_used(args: argparse.Namespace) -> None:
    """Raises InputError for an option that the chosen check ignores."""
    for option, given, used, of in (
        ("--without-times", args.without_times, args.freeze, "--freeze"),
        ("--time-margin", args.time_margin is not None, args.against, "--against"),
        ("--junit", args.junit, not args.freeze, "a check, which --freeze is not"),
    ):
        if given and not used:
            raise InputError(f"{option} belongs to {of}; leave it out")


def main(args: argparse.Namespace) -> None:
    _require_used(args)
    rows = read_rows(args.rows)
    if args.freeze:
        frozen = baseline.freeze(rows, times=not args.without_times)
        write_text(args.freeze, frozen.model_dump_json() + "\n")
        print(f"{args.freeze}: {count(len(frozen.cells), 'cell')} of {count(len(rows), 'row')}")
        return
    head: tuple[str, ...]
    if args.rules:
        name, head = "rules", ("rule", "row", "verdict", "what is wrong")
        outcomes = [_of_rule(applied) for applied in rules.apply(rows)]
        shown = _together(outcomes)
    elif args.equals:
        reference = read_rows(rows_of(args.equals))
        name, head = "equivalence", ("cell", "top-1 (%)", "reference", "margin", "p equal", "p different", "verdict")
        shown = outcomes = [_of_agreement(agreement) for agreement in equivalence.agreements(rows, reference)]
    else:
        frozen = baseline.read(args.against)
        baseline.require_same_settings(frozen, args.against, rows)
        margin = gate.TIME_MARGIN if args.time_margin is None else args.time_margin
        name, head = "gate", ("check", "cell", "frozen", "now", "p", "limit", "verdict")
        outcomes = [_of_line(line) for line in gate.check(rows, frozen, margin)]
        shown = sorted(outcomes, key=lambda outcome: not outcome.failed)
    table = tables.table([Column(name) for name in head], [outcome.columns for outcome in shown]).markdown + "\n"
    print(table, end="")
    if args.junit:
        _write_junit(args.junit, name, outcomes)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        _add_to_summary(os.environ["GITHUB_STEP_SUMMARY"], f"### famba check: {name}\n\n{table}\n")
    failed = [outcome for outcome in outcomes if outcome.failed]
    asked = sum(outcome.asked for outcome in outcomes)
    if failed:
        what = ", ".join(dict.fromkeys(f"{outcome.check} of {outcome.subject}" for outcome in failed[:3]))
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise CheckFailed(f"{len(failed)} of {count(asked, 'check')} failed: {what}{more}")
    print(f"\nall {asked} checks hold" if asked != 1 else "\nthe one check holds")


def _of_rule(applied: rules.Applied) -> Outcome:
    columns = (applied.rule, applied.row, applied.verdict, applied.detail)
    failed, asked = applied.verdict == "broken", applied.verdict in ("ok", "broken")
    return Outcome(columns, applied.rule, applied.row, failed, applied.detail, asked)


def _of_line(line: gate.GateLine) -> Outcome:
    p = "" if line.p is None else f"{line.p:.2g}"
    columns = (line.check, line.cell, line.frozen, line.now, p, line.limit, line.verdict)
    detail = f"frozen {line.frozen}, now {line.now}"
    return Outcome(columns, line.check, line.cell, line.verdict == "regression", detail)


def _of_agreement(agreement: equivalence.Agreement) -> Outcome:
    now, then = (f"{mean:.2f} (n = {n})" for mean, n in zip(agreement.top1, agreement.n, strict=True))
    p = f"{agreement.p_equal:.2g}", f"{agreement.p_different:.2g}"
    columns = (agreement.cell, now, then, f"±{agreement.margin:.2f}", *p, agreement.verdict)
    detail = f"{agreement.verdict}: {now} here, {then} in the reference, margin {agreement.margin:.2f}"
    return Outcome(columns, "top-1", agreement.cell, agreement.verdict != "equal", detail)


def _together(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Each failure, then a line for all rows that a rule finds alike."""
    alike = Counter((outcome.check, outcome.columns[2]) for outcome in outcomes if not outcome.failed)
    return [outcome for outcome in outcomes if outcome.failed] + [
        Outcome((check, count(n, "row"), verdict, ""), check, "", False, "") for (check, verdict), n in alike.items()
    ]


def _add_to_summary(path: str, text: str) -> None:
    """A copy of what has been printed: that it cannot be written is no verdict, and hides none."""
    try:
        with open(path, "a", encoding="utf-8") as summary:
            summary.write(text)
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY={path}: cannot be written ({error.strerror}); going on without", file=sys.stderr)


def _write_junit(path: Path, name: str, outcomes: Sequence[Outcome]) -> None:
    """JUnit XML, as CI systems read it: a test case per outcome."""
    failures = sum(outcome.failed for outcome in outcomes)
    suite = ElementTree.Element("testsuite", name=f"famba {name}", tests=str(len(outcomes)), failures=str(failures))
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=outcome.check, name=outcome.subject)
        if outcome.failed:
            ElementTree.SubElement(case, "failure", message=outcome.detail)
    with atomic_file(path, binary=True) as file:
        ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)
