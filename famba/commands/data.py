"""`famba data fetch | verify | show | pull | manifest`."""

import argparse
import json
from pathlib import Path
from typing import Any

from famba.config.datasets import DATA_HELP, data_folder
from famba.config.image_folder import ImageFolder, ListedFolder, listed
from famba.data import cifar100, digits, image_folder, manifest
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

An image folder of your own, {train,val|test}/<class>/<image>, has a manifest, which lists every image with its sha256:
  famba data manifest data/flowers --out config/flowers.jsonl
  famba data verify flowers --manifest config/flowers.jsonl
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
    _add_manifest(command)

    command = _command(commands, "verify", _verify, "read all of it: form, digests, size, labels")
    _add_manifest(command)

    command = _command(commands, "show", _show, "draw a labelled sheet of samples")
    _add_manifest(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="PNG, SVG or PDF [NAME.png in the data folder]")

    text = "list, hash and decode every image of a folder, and write the manifest"
    command = commands.add_parser("manifest", help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="with train/<class>/<image>, and val or test")
    command.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="the manifest")
    command.add_argument("--evaluated", choices=["val", "test"], help="the evaluation split, if the folder has both")
    command.set_defaults(run=_manifest)


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    command.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    command.add_argument("--root", type=Path, default=data_folder(), metavar="FOLDER", help=DATA_HELP)
    command.set_defaults(run=run)
    return command


def _add_manifest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--manifest", metavar="FILE", help="of an image folder: NAME is a folder in --root, or any path"
    )


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
    if args.manifest:
        identity = _verified(args)
    else:
        path = pull(args.name, args.root)
        print(f"{args.name}: {path} is there and verified")
        if not args.identity:
            return
        identity = verify(args.name, args.root)
    if args.identity:
        write_text(args.identity, json.dumps(identity.written(), indent=2) + "\n")


def _manifest(args: argparse.Namespace) -> None:
    head, findings = manifest.write(args.folder, args.out, args.evaluated)
    print(*findings, sep="\n", end="\n" if findings else "")
    least, most = (f(n for pair in head.classes.values() for n in pair[:1]) for f in (min, max))
    print(
        f"{args.out}: sha256 {head.sha256}, {head.bytes:,} bytes: {head.train:,} train and {head.test:,} "
        f"{head.evaluated} images, {len(head.classes)} classes of {least:,} to {most:,} train images"
    )


def _verified(args: argparse.Namespace) -> Identity:
    """Of an image folder, every file of which has been compared with its manifest."""
    folder = _folder(args)
    assert folder is not None
    identity = image_folder.load(Path(args.name).name, args.root, folder, hashed=True).identity
    print(_sentence(identity), "verified: the files of the manifest, and no others", sep="\n")
    return identity


def _folder(args: argparse.Namespace) -> ListedFolder | None:
    """The image folder that the options name, as a cell has it."""
    if not args.manifest:
        if args.name not in NAMES and (Path(args.name).is_dir() or (args.root / args.name).is_dir()):
            raise InputError(f"{args.name}: an image folder has a manifest; name it: --manifest FILE")
        return None
    there = (args.root / args.name).is_dir() or not Path(args.name).is_dir()
    return listed(ImageFolder(manifest=args.manifest, folder=args.name if there else str(Path(args.name).absolute())))


def _verify(args: argparse.Namespace) -> None:
    if _folder(args):
        _verified(args)
        return
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
    name = Path(args.name).name
    out = args.out or args.root / f"{name}.png"
    show(name, args.root, out, _folder(args))
    print(f"{args.name}: samples drawn to {out}")


def _sentence(identity: Identity) -> str:
    standing = "" if identity.official else ", NOT the published data set (FAMBA_SOURCES)"
    return (
        f"{identity.name}: {identity.source}, sha256 {identity.sha256}, {identity.bytes:,} bytes: "
        f"{identity.train:,} train and {identity.test:,} test images, {identity.classes} classes, "
        f"{identity.pixels}, {identity.channels} channel{'s' if identity.channels > 1 else ''}"
        f"{standing}"
    )
