"""famba.data on CIFAR-100: what is loaded is what was published; anything else is refused in one line, unused."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from famba import data
from famba.errors import InputError
from tests.helpers import cifar_archive as cifar


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar_holds_exactly_the_archive(place: Callable[..., Path], kind: str) -> None:
    path = place(kind)
    loaded = data.load("cifar100", path.parent)
    for split, images, labels in (
        (cifar.TRAIN, loaded.train_images, loaded.train_labels),
        (cifar.TEST, loaded.test_images, loaded.test_labels),
    ):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(images, split.images.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(labels, split.fine)
        assert images.flags.c_contiguous
        assert images.flags.writeable  # torch.from_numpy warns otherwise
    assert loaded.classes == tuple(cifar.FINE_NAMES)
    assert loaded.identity == data.Identity(
        name="cifar100",
        source=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        bytes=path.stat().st_size,
        train=24,
        test=11,
        classes=100,
        channels=3,
        size=32,
        train_digest=hashlib.sha256(b"".join(sorted(_labelled_planes(cifar.TRAIN)))).hexdigest(),
        test_digest=hashlib.sha256(b"".join(sorted(_labelled_planes(cifar.TEST)))).hexdigest(),
        order_digest=loaded.identity.order_digest,
        official=False,
    )
    assert data.verify("cifar100", path.parent) == loaded.identity


def _labelled_planes(split: cifar.Split) -> list[bytes]:
    """The records of a binary archive, less their coarse label."""
    data = cifar.records(split)
    return [data[start + 1 : start + 3074] for start in range(0, len(data), 3074)]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_binary_archives_round_trip(train: int, test: int, seed: int) -> None:
    expected = cifar.random_split(train, seed), cifar.random_split(test, seed + 1)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = cifar.write(Path(folder) / cifar.FILES["binary"], *expected)
        patch.setenv("FAMBA_SOURCES", str(cifar.write_sources(Path(folder) / "sources.yaml", path, train, test)))
        loaded = data.load("cifar100", folder)
    np.testing.assert_array_equal(cifar.records(cifar.Split(*_planes(loaded, "train"), expected[0].coarse)),
                                  cifar.records(expected[0]))  # fmt: skip
    np.testing.assert_array_equal(loaded.test_labels, expected[1].fine)


def _planes(loaded: data.Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = getattr(loaded, f"{split}_images"), getattr(loaded, f"{split}_labels")
    return images.transpose(0, 3, 1, 2), labels


def test_the_binary_archive_is_preferred(place: Callable[..., Path]) -> None:
    place("python")
    path = place("binary")
    assert data.load("cifar100", path.parent).identity.source == "cifar-100-binary.tar.gz"


def test_a_missing_archive_is_answered_with_the_commands_that_bring_it(tmp_path: Path) -> None:
    expected = "cifar-100-binary.tar.gz is missing: run `famba data fetch cifar100` or `dvc repro cifar100`"
    with pytest.raises(InputError, match=expected):
        data.load("cifar100", tmp_path)


def test_another_content_is_refused_before_parsing(place: Callable[..., Path]) -> None:
    path = place("binary")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"{path}: {len(whole) - 1:,} bytes, expected {len(whole):,}"):
        data.load("cifar100", path.parent)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    path.write_bytes(altered)
    found = hashlib.sha256(altered).hexdigest()
    with pytest.raises(InputError, match=rf"{path}: sha256 {found}, expected {hashlib.sha256(whole).hexdigest()}"):
        data.load("cifar100", path.parent)


def test_no_generated_archive_passes_for_the_published_one(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place("binary")
    monkeypatch.delenv("FAMBA_SOURCES")
    with pytest.raises(InputError, match="bytes, expected 168,513,733"):
        data.load("cifar100", path.parent)


def _binary(**changed: bytes | tarfile.TarInfo) -> dict[str, bytes | tarfile.TarInfo]:
    """The regular members with some replaced, `train_bin=` for train.bin, or dropped with None."""
    members = {
        **cifar.binary_members(cifar.TRAIN, cifar.TEST),
        **{key.replace("_bin", ".bin"): item for key, item in changed.items()},
    }
    return {name: item for name, item in members.items() if item is not None}


def _labelled(fine: int, coarse: int) -> bytes:
    split = cifar.Split(cifar.TRAIN.images, cifar.TRAIN.fine.copy(), cifar.TRAIN.coarse.copy())
    split.fine[5], split.coarse[5] = fine, coarse
    return cifar.records(split)


def _link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("cifar-100-binary/train.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            _binary(train_bin=cifar.records(cifar.TRAIN)[:-1]),
            "train.bin: 73,775 bytes, expected a whole number of 3074-byte",
        ),
        (_binary(train_bin=cifar.records(cifar.TEST)), "train.bin: records: 11, expected 24"),
        (_binary(train_bin=_labelled(100, 0)), "train: record 5: fine label 100, expected 0 to 99"),
        (_binary(train_bin=_labelled(0, 20)), "train: record 5: coarse label 20, expected 0 to 19"),
        (_binary(test_bin=None), "cifar-100-binary/test.bin missing from the archive"),
        (_binary(train_bin=_link()), "cifar-100-binary/train.bin missing from the archive"),
        ({**_binary(), "fine_label_names.txt": b"apple\nbear\n"}, "fine label names: 2, expected 100"),
    ],
    ids=["record length", "count", "fine label", "coarse label", "member", "link", "names"],
)
def test_a_damaged_binary_archive(place: Callable[..., Path], members: dict[str, bytes], message: str) -> None:
    path = place("binary", members)
    with pytest.raises(InputError) as caught:
        data.load("cifar100", path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declared_file_that_is_no_archive(place: Callable[..., Path], tmp_path: Path) -> None:
    path = place("binary")
    path.write_bytes(b"not a tar")
    cifar.write_sources(tmp_path / "sources.yaml", path, 24, 11)
    with pytest.raises(InputError, match=rf"{path}: cannot be read: "):
        data.load("cifar100", path.parent)


def test_nothing_of_an_archive_reaches_the_disk(place: Callable[..., Path], tmp_path: Path) -> None:
    path = place("binary", {**_binary(), "../../escaped": b"x", "../../../escaped": b"x"})
    before = sorted(tmp_path.rglob("*"))
    data.load("cifar100", path.parent)
    assert sorted(tmp_path.rglob("*")) == before


class _Command:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_not_run(place: Callable[..., Path], tmp_path: Path, protocol: int) -> None:
    hostile = pickle.dumps({"data": _Command(f"touch {tmp_path}/ran")}, protocol)
    path = place("python", {**cifar.python_members(cifar.TRAIN, cifar.TEST), "train": hostile})
    with pytest.raises(InputError, match=r"train: refused.*asks for (posix|os)\.system"):
        data.load("cifar100", path.parent)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["builtins\neval", "builtins\ngetattr", "numpy\nload", "numpy.core.multiarray\nscalar"]
)
def test_names_near_the_admitted_ones_are_refused(place: Callable[..., Path], name: str) -> None:
    stream = b"\x80\x02c" + name.encode() + b"\n."
    path = place("python", {**cifar.python_members(cifar.TRAIN, cifar.TEST), "meta": stream})
    with pytest.raises(InputError, match=f"asks for {name.replace(chr(10), '.')}"):
        data.load("cifar100", path.parent)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3_are_read_too(place: Callable[..., Path], protocol: int) -> None:
    members = cifar.python_members(cifar.TRAIN, cifar.TEST)
    for name, split in (("train", cifar.TRAIN), ("test", cifar.TEST)):
        members[name] = pickle.dumps(cifar.batch(split, name), protocol)
    path = place("python", members)
    np.testing.assert_array_equal(data.load("cifar100", path.parent).test_labels, cifar.TEST.fine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {b"data": cifar.TRAIN.images.reshape(24, -1)[:, 1:]},
            "train: data is uint8 (24, 3071), expected uint8 (N, 3072)",
        ),
        ({b"data": [1, 2]}, "train: data is a list, expected a ndarray"),
        ({b"fine_labels": [0] * 23}, "train: fine labels: 23, expected 24"),
        ({b"fine_labels": [100] * 24}, "train: record 0: fine label 100, expected 0 to 99"),
        ({b"coarse_labels": [b"x"] * 24}, "train: coarse_labels holds b'x', expected the number of a class"),
    ],
    ids=["shape", "type", "length", "range", "text"],
)
def test_a_damaged_python_archive(place: Callable[..., Path], change: dict[bytes, object], message: str) -> None:
    members = cifar.python_members(cifar.TRAIN, cifar.TEST)
    members["train"] = cifar.python2_pickle({**cifar.batch(cifar.TRAIN, "training"), **change})
    path = place("python", members)
    with pytest.raises(InputError) as caught:
        data.load("cifar100", path.parent)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "damaged", [b"", b"\x80", b"\x80\x02}q", b"\x80\x02K\x01.", b"garbage\n", b"\x80\x02\x82\x01."]
)
def test_a_stream_that_is_no_dict(place: Callable[..., Path], damaged: bytes) -> None:
    path = place("python", {**cifar.python_members(cifar.TRAIN, cifar.TEST), "meta": damaged})
    with pytest.raises(InputError, match=r"meta: (refused|holds a int, expected a dict)"):
        data.load("cifar100", path.parent)
