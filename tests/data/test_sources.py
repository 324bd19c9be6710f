"""Where data sets come from: mirrors keep the published identity, mistakes are one line, DVC pins the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from famba.data import cifar_content, sources
from famba.data.content import Content
from famba.errors import InputError
from tests.helpers import ROOT


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
            "unknown archive 'cifar-100-binary'; did you mean 'cifar-100-binary.tar.gz'?",
        ),
        ("cifar-100-binary.tar.gz: {sha: x}", "sha: unknown key; did you mean 'sha256'?"),
        ("cifar-100-binary.tar.gz: {bytes: 3}", "bytes without sha256"),
        ("cifar-100-binary.tar.gz: {sha256: 12}", "sha256: Input should be a valid string, found 12"),
        ("cifar-100-binary.tar.gz: {url: }", "url: Input should be a valid string, found None"),
        ('cifar-100-binary.tar.gz: {url: ""}', "url: String should have at least 1 character, found ''"),
        ("cifar-100-binary.tar.gz: {sha256: null}", "sha256: Input should be a valid string, found None"),
        (f"cifar-100-binary.tar.gz: {{sha256: {'a' * 64}, md5: , bytes: 1}}", "md5: Input should be a valid string"),
        (f"cifar-100-binary.tar.gz: {{sha256: {'a' * 64}, bytes: }}", "bytes: Input should be a valid integer"),
        ("- a", "expected a mapping of archive names"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    _sources(tmp_path, monkeypatch, text)
    with pytest.raises(InputError) as caught:
        sources.archive("cifar-100-binary.tar.gz")
    assert message in str(caught.value)
    assert "sources.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_digest_may_be_written_in_capitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = sources.PUBLISHED["cifar-100-binary.tar.gz"]
    row = sources.CONTENT.model_dump() | {
        "digests": {split: digest.upper() for split, digest in sources.CONTENT.digests.items()}
    }
    text = {"cifar-100-binary.tar.gz": {"sha256": published.sha256.upper()}, "cifar100": row}
    _sources(tmp_path, monkeypatch, yaml.safe_dump(text))
    assert sources.archive("cifar-100-binary.tar.gz") == published
    assert sources.expected() == sources.CONTENT
    assert cifar_content.differences(Content(**sources.CONTENT.digests, order="")) == []


def test_dvc_pins_the_published_archive() -> None:
    stage = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["cifar100"]
    published = sources.PUBLISHED["cifar-100-binary.tar.gz"]
    expected = {"path": f"data/{published.file}", "hash": "md5", "md5": published.md5, "size": published.bytes}
    assert stage["outs"] == [expected]
    assert stage["cmd"] == yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["cifar100"]["cmd"]
