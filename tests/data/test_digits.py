"""scikit-learn's digits: its images in a stratified split, and altered ones refused."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from famba import data
from famba.data.digits import locate as locate_digits
from famba.errors import InputError


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
