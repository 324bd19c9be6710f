"""famba.data: what is loaded is what was published, and anything else is refused in one line before it is used."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from famba import data
from famba.cli import main
from famba.data import fashion_mnist, sources
from famba.data.digits import locate as locate_digits
from famba.errors import InputError
from tests.helpers import ROOT


def test_digits_are_scikit_learns_in_a_stratified_split() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - two seconds that only this test pays

    loaded = data.load("digits")
    theirs = load_digits()
    ours = np.concatenate([loaded.train_images, loaded.test_images]).reshape(-1, 64)
    scaled = np.rint(theirs.images * 255 / 16).reshape(-1, 64)
    labels = np.concatenate([loaded.train_labels, loaded.test_labels])
    order = [
        np.lexsort(np.column_stack([images, labels_of]).T)
        for images, labels_of in ((ours, labels), (scaled, theirs.target))
    ]
    np.testing.assert_array_equal(ours[order[0]], scaled[order[1]])
    np.testing.assert_array_equal(labels[order[0]], theirs.target[order[1]])
    assert loaded.train_images.shape == (1437, 8, 8, 1)
    assert loaded.test_images.shape == (360, 8, 8, 1)
    share = np.bincount(loaded.test_labels) / np.bincount(labels)
    assert np.all(np.abs(share - 0.2) < 0.01)
    assert loaded.identity.official
    assert loaded.identity.source.startswith("scikit-learn ")


def test_altered_digits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gzip.decompress(locate_digits().read_bytes()).decode().splitlines()
    rows[0] = "1" + rows[0][1:] if rows[0][0] == "0" else "0" + rows[0][1:]
    folder = tmp_path / "sklearn" / "datasets" / "data"
    folder.mkdir(parents=True)
    (folder / "digits.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(InputError, match=rf"{folder}/digits.csv.gz: sha256 .* expected .*: altered"):
        data.load("digits")


@pytest.fixture
def fashion_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Four small idx files, declared in FAMBA_SOURCES; `edit` maps a file name to its changed content."""

    def put(**edit: bytes) -> Path:
        rng = np.random.default_rng(3)
        rows = {}
        for name in fashion_mnist.FILES:
            count = 12 if "train" in name else 5
            shape = (count, 28, 28) if "images" in name else (count,)
            values = rng.integers(0, 256 if "images" in name else 10, shape, np.uint8)
            header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
            content = edit.get(name.split("-ubyte")[0].replace("-", "_"), header + values.tobytes())
            (tmp_path / "data/fashion-mnist").mkdir(parents=True, exist_ok=True)
            (tmp_path / "data/fashion-mnist" / name).write_bytes(gzip.compress(content))
            split = "train" if "train" in name else "test"
            sha256 = hashlib.sha256(content).hexdigest()
            rows[name] = {
                "url": "http://127.0.0.1:9/",
                "sha256": sha256,
                "bytes": len(content),
                "records": {split: count},
            }
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(rows))
        monkeypatch.setenv("FAMBA_SOURCES", str(tmp_path / "sources.yaml"))
        return tmp_path / "data"

    return put


def test_fashion_mnist_reads_idx_files(fashion_files: Callable[..., Path]) -> None:
    root = fashion_files()
    loaded = data.load("fashion-mnist", root)
    raw = gzip.decompress((root / "fashion-mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    np.testing.assert_array_equal(loaded.test_images.reshape(-1), np.frombuffer(raw, np.uint8)[16:])
    assert loaded.train_images.shape == (12, 28, 28, 1)
    assert loaded.train_images.flags.writeable
    assert loaded.test_labels.shape == (5,)
    assert loaded.classes[9] == "Ankle boot"
    assert not loaded.identity.official


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"t10k_labels_idx1": b"\0\0\x0d\x01\0\0\0\x05" + bytes(5)},
            "idx header 00000d0100000005, expected 0000080100000005",
        ),
        ({"t10k_labels_idx1": b"\0\0\x08\x01\0\0\0\x05" + bytes(4)}, "4 values, expected 5"),
        (
            {"t10k_labels_idx1": b"\0\0\x08\x01\0\0\0\x05" + bytes([0, 1, 10, 2, 3])},
            "record 2: label 10, expected 0 to 9",
        ),
    ],
    ids=["header", "length", "range"],
)
def test_damaged_idx_files(fashion_files: Callable[..., Path], edit: dict[str, bytes], message: str) -> None:
    root = fashion_files(**edit)
    with pytest.raises(InputError) as caught:
        data.load("fashion-mnist", root)
    assert str(caught.value) == f"{root}/fashion-mnist/t10k-labels-idx1-ubyte.gz: {message}"


def test_an_idx_file_that_unpacks_to_too_much_is_left_unread(fashion_files: Callable[..., Path]) -> None:
    path = fashion_files() / "fashion-mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(InputError, match="more than 9,424 bytes of content, expected 9,424"):
        data.load("fashion-mnist", path.parent.parent)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one(tmp_path: Path) -> None:
    identity = data.verify("fashion-mnist", tmp_path)
    assert (identity.train, identity.test, identity.official) == (60_000, 10_000, True)


def _sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "sources.yaml").write_text(text)
    monkeypatch.setenv("FAMBA_SOURCES", str(tmp_path / "sources.yaml"))


def test_a_mirror_keeps_the_published_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sources(tmp_path, monkeypatch, "cifar-100-binary.tar.gz: {url: https://mirror.example.org/c.tar.gz}")
    mirrored, published = sources.archive("cifar-100-binary.tar.gz"), sources.PUBLISHED["cifar-100-binary.tar.gz"]
    assert mirrored.url == "https://mirror.example.org/c.tar.gz"
    assert mirrored.official
    assert (mirrored.sha256, mirrored.bytes, mirrored.md5) == (published.sha256, published.bytes, published.md5)
    assert sources.archive("cifar-100-python.tar.gz") == sources.PUBLISHED["cifar-100-python.tar.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cifar-100-binary: {url: x}",
            "unknown archive 'cifar-100-binary'; the nearest known one is 'cifar-100-binary.tar.gz'",
        ),
        ("cifar-100-binary.tar.gz: {sha: x}", "unknown key 'sha'; the nearest known one is 'sha256'"),
        ("cifar-100-binary.tar.gz: {bytes: 3}", "bytes without sha256"),
        ("cifar-100-binary.tar.gz: {sha256: 12}", "sha256 is 12, expected 64 hexadecimal digits in quotes"),
        ("- a", "expected a mapping of archive names"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_in_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    _sources(tmp_path, monkeypatch, text)
    with pytest.raises(InputError) as caught:
        sources.archive("cifar-100-binary.tar.gz")
    assert message in str(caught.value)
    assert "sources.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "suffix", "magic"), [("digits", "png", b"\x89PNG"), ("cifar100", "svg", b"<?xml")])
def test_a_sheet_of_samples(place: Callable[..., Path], tmp_path: Path, name: str, suffix: str, magic: bytes) -> None:
    root = place("binary").parent
    out = tmp_path / "sheets" / f"{name}.{suffix}"
    data.show(name, root, out)
    assert out.read_bytes().startswith(magic)


def test_a_sheet_has_a_format_we_can_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sheet\.xyz: a sheet is drawn as \.png, \.svg, \.pdf"):
        data.show("digits", tmp_path, tmp_path / "sheet.xyz")


def _famba(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "famba", "data", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_verifies_and_writes_an_identity(tmp_path: Path) -> None:
    done = _famba("pull", "digits", "--identity", "made/digits.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    identity = json.loads((tmp_path / "made/digits.json").read_text())
    assert identity == data.verify("digits").__dict__
    done = _famba("verify", "digits", cwd=tmp_path)
    assert done.returncode == 0
    assert "1,437 train and 360 test images" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "cifar100"), "cifar-100-binary.tar.gz is missing: run `famba data fetch cifar100`"),
        (("verify", "cifar10"), "unknown data set 'cifar10'; the nearest known one is 'cifar100'"),
        (("fetch", "cifar100", "--url", "cs.toronto.edu"), "expected a URL that starts with http://"),
        (("fetch", "digits", "--url", "https://example.org"), "--url: digits come with scikit-learn"),
        (("fetch", "digits", "--kind", "python"), "--kind: digits has no archives to choose from"),
        (("fetch", "fashion-mnist", "--kind", "binary"), "--kind: fashion-mnist has no archives"),
        (("show", "digits", "--out", "/proc/x.png"), "/proc/x.png: cannot be written ("),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = _famba(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_altered_archive_is_a_failed_check_to_verify_and_bad_input_to_all_else(
    place: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place("binary")
    whole = path.read_bytes()
    for altered in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1]):
        path.write_bytes(altered)
        assert main(["data", "verify", "cifar100", "--root", str(path.parent)]) == 1
        error = capsys.readouterr().err
        assert "altered" in error
        assert "`famba data fetch cifar100` replaces it" in error
        assert error.count("\n") == 1
        assert main(["data", "show", "cifar100", "--root", str(path.parent), "--out", str(tmp_path / "x.png")]) == 2
        assert "altered" in capsys.readouterr().err


def test_dvc_pins_the_published_archive() -> None:
    stage = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["cifar100"]
    published = sources.PUBLISHED["cifar-100-binary.tar.gz"]
    expected = {"path": f"data/{published.file}", "hash": "md5", "md5": published.md5, "size": published.bytes}
    assert stage["outs"] == [expected]
    assert stage["cmd"] == yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["cifar100"]["cmd"]
