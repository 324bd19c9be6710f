"""Every reader of files from outside, on seeded spoilt files: each is read, or refused in one printable line.

    python -m tests.stress.inputs CASES SEED [READER ...]

CASES for each reader. Prints how many were read and refused, the longest a case took and by how much memory grew; a
traceback, a refusal of several lines or code that has run ends with exit status 1 and the number of its case.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import yaml

import famba
from famba.checks import baseline
from famba.checks.weights import without_tensors
from famba.claims import ledger
from famba.claims.verdicts import Verdicts
from famba.config import Cell, Experiment
from famba.config.validation import read_json
from famba.data import cifar100, cifar_images, fashion_mnist, sources
from famba.data.content import split_digest
from famba.data.download import Patience, download, open_part
from famba.errors import InputError
from famba.results.epochs import read_epochs
from famba.results.predictions import NAME as PREDICTIONS
from famba.results.predictions import read_predictions
from famba.results.row import read_row
from famba.results.tokens import NAME as TOKENS
from famba.results.tokens import read_tokens
from famba.training import checkpoint, status, weights
from famba.training.history import History
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers import cifar_archive as cifar
from tests.helpers.cells import small_cell
from tests.stress import spoil

Spoil = Callable[[random.Random, bytes], bytes]
Read = Callable[[Path], object]
EVIDENCE = ROOT / "results" / "evidence" / "smoke"


NAMES = (
    "experiment", "ledger", "sources", "cell", "row", "status", "claims", "baseline", "epochs", "tokens", "predictions",
    "weights", "rules", "official", "safetensors", "checkpoint", "binary", "python", "pickles", "fashion", "image",
    "url",
)  # fmt: skip


class Reader(NamedTuple):
    """A valid file's name and content, how it is spoilt, and how it is read. `seal`: what is spoilt is sealed anew."""

    name: str
    content: bytes
    spoil: Spoil
    read: Read
    seal: bool = False


class Files:
    """Valid files of every kind, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.training = Training(small_cell(), folder / "cell", Path("data"))
        self.training.run()
        self.row = read_row(folder / "cell" / "row.json")
        self.training = Training(small_cell(), folder / "half", Path("data"))
        self.training._train_epoch = self._stopped(self.training._train_epoch)  # type: ignore[method-assign]
        with contextlib.suppress(_Enough):
            self.training.run()

    def _stopped(self, train_epoch: Callable[[int], None]) -> Callable[[int], None]:
        def stop(epoch: int) -> None:
            if epoch:
                raise _Enough
            train_epoch(epoch)

        return stop

    def of(self, name: str) -> bytes:
        return (self.folder / "cell" / name).read_bytes()

    def readers(self) -> dict[str, Reader]:
        config, cells = ROOT / "config", sorted(EVIDENCE.glob("cells/*"))
        mine = yaml.safe_load((config / "smoke.yaml").read_text())
        mine["strategies"] = ["baseline", "late"]
        mine["schedules"] = {"late": {"from": 5, "r": 2, "method": "rmeeto", "settings": {"prune": True}}}
        mine["recipe"] |= {"init": str(self.folder / "cell" / "weights.pt")}
        cell = self.row.cell.model_dump_json().encode()
        checkpoint_ = (self.folder / "half" / checkpoint.NAME).read_bytes()
        model = famba.VisionMamba(**self.row.cell.architecture.model_dump(), num_classes=10)
        official = io.BytesIO()
        torch.save({"model": {f"module.{name}": t for name, t in model.state_dict().items()}, "epoch": 3}, official)

        def fit(path: Path) -> None:
            weights.fit(weights.read(path), model)

        def resume(path: Path) -> None:
            found, rejected = checkpoint.newest(path.parent, torch.device("cpu"), self.training._mismatch)
            if found is None:  # which a training says as it begins anew
                raise InputError(rejected[0].reason)
            self.training.state.load_state_dict(found)
            assert History.from_dict(found["history"]).last().epoch == 0

        return {
            "experiment": Reader("x.yaml", yaml.safe_dump(mine).encode(), spoil.of_yaml, _cells),
            "ledger": Reader("x.yaml", (config / "claims.yaml").read_bytes(), spoil.of_yaml, ledger.load),
            "sources": Reader("x.yaml", _sources().encode(), spoil.of_yaml, _read_sources),
            "cell": Reader("x.json", cell, spoil.of_json, lambda path: Cell.from_json(os.fsdecode(path.read_bytes()))),
            "row": Reader("row.json", self.of("row.json"), spoil.of_json, read_row),
            "status": Reader("status.json", _status(), spoil.of_json, lambda p: status.read_status(p.parent)),
            "claims": Reader("claims.json", (EVIDENCE / "claims.json").read_bytes(), spoil.of_json, _verdicts),
            "baseline": Reader(
                "b.json", (ROOT / "results" / "baselines" / "smoke.json").read_bytes(), spoil.of_json, baseline.read
            ),
            "epochs": Reader("epochs.csv", (cells[0] / "epochs.csv").read_bytes(), spoil.of_text, read_epochs),
            "tokens": Reader(TOKENS, self.of(TOKENS), spoil.of_arrays, lambda p: read_tokens(p, self.row), seal=True),
            "predictions": Reader(
                PREDICTIONS, self.of(PREDICTIONS), spoil.of_arrays, lambda p: read_predictions(p, self.row), seal=True
            ),
            "weights": Reader("weights.pt", self.of("weights.pt"), spoil.of_torch, fit, seal=True),
            "rules": Reader("weights.pt", self.of("weights.pt"), spoil.of_torch, _without_tensors, seal=True),
            "official": Reader("vim.pth", official.getvalue(), spoil.of_torch, fit),
            "safetensors": Reader("x.safetensors", _safetensors(model, cell.decode()), spoil.of_bytes, fit),
            "checkpoint": Reader(checkpoint.NAME, checkpoint_, spoil.of_torch, resume, seal=True),
            "binary": Reader(cifar.FILES["binary"], *_archive("binary"), _load),
            "python": Reader(cifar.FILES["python"], *_archive("python"), _load),
            "pickles": Reader("train", *_folder(), _load_folder),
            "fashion": Reader("train-labels-idx1-ubyte.gz", _gzip(), spoil.of_bytes, _load_fashion),
            "image": Reader("x.png", _png(), spoil.of_bytes, _load_image),
            "url": Reader("x.url", b"", _url, _download),
        }


class _Enough(Exception):
    """A training has its checkpoint."""


def _cells(path: Path) -> None:
    experiment = Experiment.load(path)
    for cell in experiment.cells():
        assert Cell.from_json(cell.model_dump_json()) == cell
    experiment.require_init()
    experiment.require_claims()


def _status() -> bytes:
    now = datetime.now(UTC)
    made = status.Status(cell="x", epochs=3, pid=1, host="h", started=now, updated=now, state="training", epoch=1)
    return made.model_dump_json().encode()


def _verdicts(path: Path) -> None:
    read_json(Verdicts, path, "file of verdicts")


def _without_tensors(path: Path) -> None:
    try:
        without_tensors(path)
    except Exception as error:  # its caller makes one line of any
        raise InputError(type(error).__name__) from error


def _safetensors(model: famba.VisionMamba, cell: str) -> bytes:
    told = {"format": "pt", "model": "m", "cell": cell}
    return safetensors.torch.save(dict(model.state_dict()), metadata=told)


def _sources() -> str:
    digest = {"train": "a" * 64, "test": "b" * 64}
    rows = {
        "cifar-100-binary.tar.gz": {
            "url": "http://127.0.0.1:9/x",
            "sha256": "a" * 64,
            "records": {"train": 3, "test": 2},
        },
        "cifar100": {
            "digests": digest,
            "records": {"train": 3, "test": 2},
            "unlabelled": digest,
            "repeated": {"test": 0},
        },
    }
    return yaml.safe_dump(rows)


def _declared(path: Path, rows: dict[str, object]) -> None:
    """FAMBA_SOURCES declares what is there, so that its content is read and not only its hash."""
    listed = path.with_name("declared.yaml")
    listed.write_text(yaml.safe_dump(rows))
    os.environ["FAMBA_SOURCES"] = str(listed)


def _read_sources(path: Path) -> None:
    os.environ["FAMBA_SOURCES"] = str(path)
    sources.expected()
    for name in sources.PUBLISHED:
        sources.archive(name)


TRAIN, TEST = cifar.random_split(3, 1), cifar.random_split(2, 2)
RECORDS = {"train": 3, "test": 2}


def _archive(kind: str) -> tuple[bytes, Spoil]:
    """A tar.gz, of which the file, the tar or a pickle within is spoilt."""
    members = (cifar.binary_members if kind == "binary" else cifar.python_members)(TRAIN, TEST)

    def packed(members: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"cifar-100-{kind}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()

    def spoilt(draw: random.Random, content: bytes) -> bytes:
        match draw.randrange(4):
            case 0:
                return spoil.of_bytes(draw, content)
            case 1:
                inside = of_header(draw, packed(members))
            case _:
                name = draw.choice(list(members))
                change = spoil.of_pickle if kind == "python" else spoil.of_bytes
                inside = packed(members | {name: change(draw, members[name])})
        return gzip.compress(inside + bytes(draw.choice((0,) * 9 + (2**26,))), 1)

    def of_header(draw: random.Random, tar: bytes) -> bytes:
        """A header of another type or size, with its checksum."""
        at = draw.choice([i for i in range(0, len(tar), 512) if tar[i : i + 9] == b"cifar-100"])
        header = bytearray(tar[at : at + 512])
        if draw.random() < 0.5:
            header[156] = draw.choice(b"0123456LKSxgX")
        if draw.random() < 0.7:
            header[124:136] = draw.choice((b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"nonsense    "))
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return tar[:at] + bytes(header) + tar[at + 512 :]

    return gzip.compress(packed(members), 1), spoilt


def _load(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _declared(path, {path.name: {"url": "http://127.0.0.1:9/", "sha256": digest, "records": RECORDS}})
    cifar100.load(path.parent)


def _folder() -> tuple[bytes, Spoil]:
    return cifar.python_members(TRAIN, TEST)["train"], spoil.of_pickle


def _load_folder(path: Path) -> None:
    root = path.parent / "root"
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (cifar.python_members(TRAIN, TEST) | {"train": path.read_bytes()}).items():
        (folder / name).write_bytes(content)
    splits = {"train": TRAIN, "test": TEST}
    digests = {name: split_digest(split.images.transpose(0, 2, 3, 1), split.fine) for name, split in splits.items()}
    _declared(path, {"cifar100": {"digests": digests, "records": RECORDS}})
    cifar100.load(root)


def _gzip() -> bytes:
    return gzip.compress(bytes.fromhex("00000801") + (5).to_bytes(4, "big") + bytes(5))


def _load_fashion(path: Path) -> None:
    try:
        content = gzip.decompress(path.read_bytes())
    except Exception:  # the reader will say so
        content = b""
    digest = hashlib.sha256(content).hexdigest()
    _declared(path, {path.name: {"sha256": digest, "records": {"train": 5}}})
    fashion_mnist._read(path, sources.archive(path.name))


def _png() -> bytes:
    out = io.BytesIO()
    cifar_images.Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(out, "PNG")
    return out.getvalue()


def _load_image(path: Path) -> None:
    cifar_images._decode_all([path], str, lambda path: io.BytesIO(path.read_bytes()))


HOSTS = [
    "[::1", "[bad", "[::1]:9", "127.0.0.1:9", "127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:-1", "u:p w@127.0.0.1:9", "",
    "a" * 70, f"{'a' * 70}.example", "a..b", ".", "127.0.0.1:9\r\nHost: x", "\0", "\x1b[1m", "%zz", "xn--", "\u2100",
]  # fmt: skip


def _url(draw: random.Random, _: bytes) -> bytes:
    """None of them is a host that could be asked."""
    scheme = draw.choice(
        ("http://", "https://", "file://", "file:///dev/zero?", "file:///dev/zero", "ftp://", "http:", "")
    )
    path = draw.choice(("", "/", "/a b", "/\n", "/\u00e9", "/" + "x" * 5000, "/%00", "/../..", "?#", "/[", "\\"))
    return f"{scheme}{draw.choice(HOSTS)}{path}".encode("utf-8", "surrogatepass")


def _download(path: Path) -> None:
    with open_part(path.with_suffix(".part")) as part:
        download(path.read_text("utf-8"), part, patience=Patience(attempts=1, timeout=1.0), most=2**20)


def attempt(reader: Reader, folder: Path, draw: random.Random) -> str:
    """One case: `read` or `refused`. Raises AssertionError for a message that is not one printable line."""
    path = folder / reader.name
    content = reader.spoil(draw, reader.content)
    if reader.seal and draw.random() < 0.9:
        spoil.sealed(path, content)
    else:
        path.write_bytes(content)
    try:
        reader.read(path)
        return "read"
    except InputError as refusal:
        message = str(refusal)
        assert message, "a refusal without a word"
        assert message.isprintable(), f"a refusal that is not one printable line: {message!r}"
        assert len(message) <= 2001, "a refusal that nobody can read"
        return "refused"


def stress(reader: Reader, folder: Path, cases: int, seed: int) -> tuple[Counter[str], list[str], float]:
    """What became of the cases, the tracebacks, and the seconds of the longest."""
    counts, faults, longest = Counter[str](), [], 0.0
    folder.mkdir()
    if reader.content:  # as it is, it is read
        (folder / reader.name).write_bytes(reader.content)
        reader.read(folder / reader.name)
    for number in range(cases):
        began = time.perf_counter()
        try:
            counts[attempt(reader, folder, random.Random(f"{seed} {number}"))] += 1
        except (Exception, SystemExit):
            faults.append(f"case {number} of seed {seed}: {traceback.format_exc(limit=-4)}")
        longest = max(longest, time.perf_counter() - began)
    return counts, faults, longest


def main(cases: int, seed: int, chosen: list[str]) -> int:
    total, failed = Counter[str](), 0
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        readers = Files(Path(scratch)).readers()
        for name, reader in readers.items():
            if chosen and name not in chosen:
                continue
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with contextlib.redirect_stderr(io.StringIO()):
                counts, faults, longest = stress(reader, Path(scratch, f"of {name}"), cases, seed)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            total += counts
            failed += len(faults)
            print(
                f"{name:12} {counts['read']:6} read {counts['refused']:6} refused {len(faults):4} tracebacks  "
                f"longest {longest:.1f} s, memory +{grown:.0f} MiB",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            for fault in dict.fromkeys(faults[:3]):
                print(fault, file=sys.stderr, flush=True)
    print(f"{total.total() + failed} cases, {total['refused']} refused, {total['read']} read, {failed} tracebacks")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
