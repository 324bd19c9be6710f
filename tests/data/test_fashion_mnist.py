"""Fashion-MNIST: its IDX files, and damaged ones refused in one line."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from famba import data
from famba.data import fashion_mnist
from famba.errors import InputError


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
    with pytest.raises(InputError, match="more than 9,424 bytes of content: altered"):
        data.load("fashion-mnist", path.parent.parent)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one(tmp_path: Path) -> None:
    identity = data.verify("fashion-mnist", tmp_path)
    assert (identity.train, identity.test, identity.official) == (60_000, 10_000, True)
