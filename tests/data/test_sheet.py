"""A sheet of samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from famba import data
from famba.errors import InputError


@pytest.mark.parametrize(("name", "suffix", "magic"), [("digits", "png", b"\x89PNG"), ("cifar100", "svg", b"<?xml")])
def test_a_sheet_of_samples(place: Callable[..., Path], tmp_path: Path, name: str, suffix: str, magic: bytes) -> None:
    root = place("binary").parent
    out = tmp_path / "sheets" / f"{name}.{suffix}"
    data.show(name, root, out)
    assert out.read_bytes().startswith(magic)


def test_a_sheet_has_a_format_we_can_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sheet\.xyz: a sheet is drawn as \.png, \.svg, \.pdf"):
        data.show("digits", tmp_path, tmp_path / "sheet.xyz")
