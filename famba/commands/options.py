"""Options that several commands have; reading them needs no statistics."""

import argparse
from pathlib import Path
from typing import Any

from famba.claims import ledger
from famba.config import yaml_file
from famba.errors import InputError


def add_ledger(parser: argparse.ArgumentParser, what: str) -> None:
    """`--claims`, of every command that reads the ledger; without it, `ledger.of_rows`."""
    parser.add_argument(
        "--claims",
        type=Path,
        metavar="FILE",
        help=f"{what} [those that config/<experiment>.yaml names, else {ledger.PUBLISHED}]",
    )


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """`--repeats`. A folder and not its rows: of many files after it, none could tell where the others begin."""
    parser.add_argument(
        "--repeats",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="results of repeats of these cells with the same seeds, whose scatter is part of the noise floor; may be "
        "given several times",
    )


def positive(text: str) -> int:
    """For argparse: a size or a count that torch can hold."""
    if not 1 <= (number := int(text)) < 2**63:
        raise ValueError
    return number


positive.__name__ = "positive integer"  # what argparse calls it in its message


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE of `--set`, the value as an experiment file has it. Raises InputError."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text}: write KEY=VALUE")
    return key, yaml_file.value(value, f"--set {text}")
