"""Identity by content: what changes a digest, what does not, and that rows of equal content are one data set's."""

import hashlib

import numpy as np
import pytest

from famba import data
from famba.cli import main
from famba.data.content import content, split_digest
from tests.helpers.rows import changed, experiment, write_grid


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (40, 9)]
    images[0][:5] = images[0][0]  # equal images: only their labels can order them
    return [images[0], rng.integers(0, 100, 40), images[1], rng.integers(0, 100, 9)]


def test_the_digest_is_the_sha256_of_the_sorted_records(arrays):
    images, labels = arrays[:2]
    records = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)]
    assert split_digest(images, labels) == hashlib.sha256(b"".join(sorted(records))).hexdigest()


def test_the_order_of_the_records_changes_the_digest_of_the_order_alone(arrays):
    shuffled = np.random.default_rng(1).permutation(40)
    first, second = content(arrays), content([arrays[0][shuffled], arrays[1][shuffled], *arrays[2:]])
    assert first[:2] == second[:2]
    assert first.order != second.order


def test_one_pixel_or_label_changes_the_digest_of_its_split(arrays):
    before = content(arrays)
    arrays[0][7, 3, 4, 1] ^= 1
    pixel = content(arrays)
    assert pixel.train != before.train
    assert pixel.test == before.test
    arrays[3][2] = (arrays[3][2] + 1) % 100
    assert content(arrays).test != before.test


def test_every_data_set_carries_its_digests():
    loaded = data.load("digits")
    found = loaded.identity
    assert found.train_digest == split_digest(loaded.train_images, loaded.train_labels)
    assert found.test_digest == split_digest(loaded.test_images, loaded.test_labels)


def test_rows_of_equal_content_pool_whatever_form_they_came_in(tmp_path):
    paths = write_grid(tmp_path, experiment())
    form = {"source": "images", "sha256": "c" * 64, "order_digest": "d" * 64, "bytes": 7}
    changed(paths[3], data=form)
    assert main(["judge", "--out", str(tmp_path), *map(str, paths)]) == 0
