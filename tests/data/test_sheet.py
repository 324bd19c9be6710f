"""A sheet of samples."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from famba import data
from famba.cli import main
from famba.errors import InputError
from tests.helpers import image_folders


@pytest.mark.parametrize(("name", "suffix", "magic"), [("digits", "png", b"\x89PNG"), ("cifar100", "svg", b"<?xml")])
def test_a_sheet_of_samples(place: Callable[..., Path], tmp_path: Path, name: str, suffix: str, magic: bytes) -> None:
    root = place("binary").parent
    out = tmp_path / "sheets" / f"{name}.{suffix}"
    data.show(name, root, out)
    assert out.read_bytes().startswith(magic)


def test_a_class_may_have_any_name(tmp_path: Path) -> None:
    """No formula of matplotlib's, and nothing that breaks the line."""
    folder, manifest = image_folders.make(tmp_path / "$x$", train=4, test=2), tmp_path / "x.jsonl"
    for split in ("train", "val"):
        for name, other in zip(image_folders.CLASSES, ("$^$", "two\nlines $\\frac$"), strict=True):
            (folder / split / name).rename(folder / split / other)
    assert main(["data", "manifest", str(folder), "--out", str(manifest)]) == 0
    out = tmp_path / "sheet.svg"
    assert main(["data", "show", str(folder), "--manifest", str(manifest), "--out", str(out)]) == 0
    shown = re.findall("<!-- (.+) -->", out.read_text())
    assert {"$^$", "two lines $\\frac$"} <= set(shown)
    assert any(title.startswith("$x$: 4 training") for title in shown)


def test_a_sheet_has_a_format_we_can_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sheet\.xyz: a sheet is drawn as \.png, \.svg, \.pdf"):
        data.show("digits", tmp_path, tmp_path / "sheet.xyz")
