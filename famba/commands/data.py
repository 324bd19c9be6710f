"""`famba data fetch | verify | show | pull`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from famba.config.datasets import DATA_HELP, data_folder
from famba.data import cifar100, digits
from famba.data.acquire import fetch, pull
from famba.data.dataset import Identity
from famba.data.registry import NAMES, check_name, verify
from famba.data.sheet import show
from famba.errors import CheckFailed, InputError, IntegrityError
from famba.files import write_text

_DESCRIPTION = """\
Data sets: cifar100 (the paper's), fashion-mnist, digits (inside scikit-learn, nothing to fetch).

They are looked for in --root, else in the folder that FAMBA_DATA names, else in data/. CIFAR-100 is taken in any of
these forms, there or in a folder cifar* there; the first that is verified is read:
  cifar-100-binary.tar.gz, cifar-100-python.tar.gz    the published archives, checked against their sha256
  cifar-100-python/                                   extracted, as torchvision leaves it
  cifar-100-binary/                                   extracted
  train-*.parquet, test-*.parquet                     as in uoft-cs/cifar100 of Hugging Face; needs pyarrow
  train/<class>/*.png, test/<class>/*.png             image folder
The others are checked against the sha256 over the sorted records of each split (a byte of label, then the colour
planes).

FAMBA_SOURCES=FILE.yaml names mirrors, or other archives of the same format, by file name:
  cifar-100-binary.tar.gz: {url: https://mirror.example.org/cifar-100-binary.tar.gz}
An entry with only a url is checked against the published sha256; with a sha256 of its own (and bytes, md5, records) an
archive is accepted, and marked as not official wherever its identity is shown or recorded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba data`; each of its commands sets `run`."""
    parser.formatter_class, parser.description = argparse.RawDescriptionHelpFormatter, _DESCRIPTION
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")

    command = _command(commands, "fetch", _fetch, "download what is missing, verified; resumes a broken transfer")
    command.add_argument(
        "--url", help="instead of the published URL (fashion-mnist: of the folder with its four files)"
    )
    command.add_argument(
        "--kind",
        choices=("binary", "python"),
        help="this archive of cifar100, whatever other form is there [binary, if there is no form at all]",
    )

    command = _command(
        commands, "pull", _pull, "like fetch, but cifar100 through DVC: its cache, its remote, its stage"
    )
    command.add_argument(
        "--identity", type=Path, metavar="FILE", help="also verify all of it and write its identity, JSON"
    )

    _command(commands, "verify", _verify, "read all of it: form, digests, size, labels")

    command = _command(commands, "show", _show, "draw a labelled sheet of samples")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="PNG, SVG or PDF (default: NAME.png in the data folder)"
    )


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    command.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    command.add_argument("--root", type=Path, default=data_folder(), metavar="FOLDER", help=DATA_HELP)
    command.set_defaults(run=run)
    return command


def main(args: argparse.Namespace) -> None:
    """Run one of its commands."""
    args.run(args)


def _fetch(args: argparse.Namespace) -> None:
    check_name(args.name)
    if args.url and args.name == digits.NAME:
        raise InputError(f"--url: {args.name} come with scikit-learn, and nothing is fetched; leave it out")
    if args.kind and args.name != cifar100.NAME:
        raise InputError(f"--kind: {args.name} has no archives to choose from, {cifar100.NAME} has; leave it out")
    path = fetch(args.name, args.root, args.url, args.kind)
    print(f"{args.name}: {path} is there and verified")


def _pull(args: argparse.Namespace) -> None:
    path = pull(args.name, args.root)
    print(f"{args.name}: {path} is there and verified")
    if args.identity:
        write_text(args.identity, json.dumps(asdict(verify(args.name, args.root)), indent=2) + "\n")


def _verify(args: argparse.Namespace) -> None:
    try:
        identity = verify(args.name, args.root)
    except IntegrityError as error:
        again = (
            "install scikit-learn anew" if args.name == digits.NAME else f"`famba data fetch {args.name}` replaces it"
        )
        raise CheckFailed(f"{error}; {again}") from None
    print("\n".join([_sentence(identity), *_content(identity, args.root)]))


def _content(identity: Identity, root: Path) -> list[str]:
    """The lines of `verify` about content: digests, other forms that are there, findings, verdict."""
    lines = [f"{split} digest {getattr(identity, f'{split}_digest')}" for split in ("train", "test")]
    findings = []
    if identity.name == cifar100.NAME:
        forms = cifar100.locate(root)
        if len(forms) > 1:
            lines.append(f"found: {', '.join(map(str, forms))}; {cifar100.CHOICE}")
        findings = cifar100.findings(identity)
    verdict = "verified: the published images and labels" if identity.official else "verified as FAMBA_SOURCES says"
    return [*lines, *findings, verdict]


def _show(args: argparse.Namespace) -> None:
    out = args.out or args.root / f"{args.name}.png"
    show(args.name, args.root, out)
    print(f"{args.name}: samples drawn to {out}")


def _sentence(identity: Identity) -> str:
    standing = "" if identity.official else ", NOT the published data set (FAMBA_SOURCES)"
    return (
        f"{identity.name}: {identity.source}, sha256 {identity.sha256}, {identity.bytes:,} bytes: "
        f"{identity.train:,} train and {identity.test:,} test images, {identity.classes} classes, "
        f"{identity.size} x {identity.size} pixels, {identity.channels} channel{'s' if identity.channels > 1 else ''}"
        f"{standing}"
    )
