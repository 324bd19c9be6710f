"""An image folder of your own: what its manifest says, what is refused, and that the loaders take the images as they
are."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from famba import data
from famba.cli import main
from famba.config import Recipe
from famba.config.image_folder import ImageFolder, ListedFolder, listed
from famba.data.image_files import centred, decoded
from famba.data.loader import EvalLoader, TrainLoader
from famba.errors import InputError
from tests.helpers import image_folders

TENSOR = Recipe(augmentation="tensor", global_batch=16, mixup_batch=8, micro_batch=8, eval_resize=20, workers=0)
TIMM = Recipe(repeats=1, global_batch=16, mixup_batch=8, micro_batch=8, eval_resize=20, eval_batch=5, workers=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with flowers/ and their manifest beside it."""
    root = tmp_path_factory.mktemp("data")
    image_folders.make(root / "flowers")
    assert main(["data", "manifest", str(root / "flowers"), "--out", str(root / "flowers.jsonl")]) == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(made, tmp_path / "data")


def block(root: Path, size: int | None = None) -> ListedFolder:
    return listed(ImageFolder(manifest=str(root / "flowers.jsonl"), size=size))


def load(root: Path, size: int | None = None) -> data.Dataset:
    return data.load("flowers", root, block(root, size))


def verified(root: Path) -> int:
    return main(["data", "verify", "flowers", "--root", str(root), "--manifest", str(root / "flowers.jsonl")])


def test_a_manifest_lists_every_image_and_is_the_same_each_time(made: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (made / "flowers.jsonl").read_text().splitlines()]
    head, images = lines[0], lines[1:]
    assert (head["train"], head["test"], head["evaluated"]) == (40, 14, "val")
    assert head["classes"] == {"daisy": [20, 7], "rose": [20, 7]}
    assert head["bytes"] == sum(image["bytes"] for image in images)
    assert [image["path"] for image in images[:40]] == sorted(image["path"] for image in images[:40])
    assert images[0] | {"sha256": None} == {
        "path": "train/daisy/000.png", "class": "daisy", "bytes": (made / "flowers/train/daisy/000.png").stat().st_size,
        "sha256": None, "width": 20, "height": 20,
    }  # fmt: skip
    shutil.copytree(made / "flowers", tmp_path / "elsewhere", copy_function=shutil.copy)
    assert main(["data", "manifest", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (made / "flowers.jsonl").read_bytes()


def test_a_verified_folder_has_an_identity_that_follows_content_and_size(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(root) == 0
    assert "40 train and 14 test images, 2 classes, images of their own sizes" in capsys.readouterr().out
    before, small = load(root).identity, load(root, 16).identity
    assert before.decoder is not None
    assert before.decoder.startswith("Pillow ")
    assert (small.size, before.size) == (16, None)
    assert {small.train_digest, small.test_digest}.isdisjoint({before.train_digest, before.test_digest})
    folder = root / "flowers"
    (folder / "train/rose/001.png").rename(folder / "train/rose/zzz.png")  # the same images in another order
    (folder / "val").rename(folder / "test")
    assert main(["data", "manifest", str(folder), "--out", str(root / "flowers.jsonl")]) == 0
    after = load(root).identity
    assert (after.train_digest, after.test_digest) == (before.train_digest, before.test_digest)
    assert after.order_digest != before.order_digest
    assert after.sha256 != before.sha256


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train/daisy/000.png").unlink(), "train/daisy/000.png is missing"),
        (lambda f: shutil.copy(f / "val/rose/041.jpg", f / "val/rose/new.jpg"), "val/rose/new.jpg is not in it"),
        (lambda f: (f / "val/rose/041.jpg").write_bytes(b"x"), "val/rose/041.jpg has 1 bytes, not "),
        (lambda f: _flip(f / "train/rose/001.png"), "train/rose/001.png was changed: its sha256 is "),
    ],
)
def test_a_changed_missing_or_added_file_is_named_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root / "flowers")
    assert verified(root) == 2
    said = capsys.readouterr()
    assert f"flowers: not what manifest {root / 'flowers.jsonl'} lists: {message}" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_three_files_are_named_and_the_others_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "flowers/train/rose").glob("00*"):
        path.unlink()
    assert verified(root) == 2
    said = capsys.readouterr().err
    assert "001.png is missing; train/rose/003.png is missing; train/rose/005.png is missing and 2 files more" in said


def _flip(path: Path) -> None:
    """Change a byte, and neither size nor time."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_before_a_training_names_and_sizes_are_compared_and_each_image_is_hashed_when_it_is_read(root: Path) -> None:
    changed = root / "flowers/train/rose/001.png"
    _flip(changed)
    dataset = load(root)  # quick: no file is read
    for workers in (0, 2):
        loader = TrainLoader(dataset, TIMM.model_copy(update={"workers": workers}), 16, 0, "cpu")
        with pytest.raises(InputError, match=r"001\.png: changed since the manifest was written") as caught:
            _all_epochs(loader)
        assert "\n" not in str(caught.value)
    changed.unlink()
    with pytest.raises(InputError, match=r"train/rose/001\.png is missing"):
        load(root)


def _all_epochs(loader: TrainLoader) -> None:
    for epoch in range(3):
        list(loader.epoch(epoch))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f / "val"), "val and {f}/test are missing"),
        (lambda f: shutil.rmtree(f / "train"), "{f}/train is missing: an image folder has train/<class>/<image>"),
        (lambda f: shutil.copytree(f / "val", f / "test"), "{f} has val and test; name the one that is evaluated"),
        (lambda f: shutil.rmtree(f / "val/rose"), "class rose is in train and not in val"),
        (lambda f: [p.unlink() for p in (f / "val/rose").iterdir()], "{f}/val/rose: an empty class"),
        (lambda f: [shutil.rmtree(f / s / "rose") for s in ("train", "val")], "one class alone, daisy"),
        (lambda f: shutil.copy(f / "val/rose/041.jpg", f / "val/x.jpg"), "{f}/val/x.jpg: an image outside of a class"),
        (lambda f: (f / "val/rose/x.png").write_bytes(b"GIF89a"), "{f}/val/rose/x.png: not an image in PNG, JPEG"),
        (lambda f: (f / "val/rose/x.png").write_bytes(b""), "{f}/val/rose/x.png: not an image in PNG, JPEG"),
        (lambda f: _cut(f / "val/rose/041.jpg"), "{f}/val/rose/041.jpg: damaged: "),
        (lambda f: (f / "val/rose/x.png").symlink_to("/nowhere.png"), "{f}/val/rose/x.png: cannot be read: No such"),
        (lambda f: (f / "val/rose/loop").symlink_to(".."), "{f}/val/rose/loop: a link that leads back to a"),
        (lambda f: _bomb(f / "val/rose/x.png", 10_000), "{f}/val/rose/x.png: more than 89,478,485 pixels; make"),
        (lambda f: _bomb(f / "val/rose/x.png", 20_000), "{f}/val/rose/x.png: more than 89,478,485 pixels"),
        (lambda f: Image.new("F", (9, 9)).save(f / "val/rose/x.tif"), "{f}/val/rose/x.tif: levels of 32 bits"),
        (lambda f: os.rename(f / "val/rose/041.jpg", os.fsencode(f / "val/rose") + b"/\xff.png"), "is not UTF-8"),
        (lambda f: (f / "val/rose").rename(f / "val/ro\nse"), "class ro se is in val and not in train"),
    ],
)
def test_what_is_no_image_folder_is_refused_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    folder = root / "flowers"
    spoil(folder)
    assert main(["data", "manifest", str(folder), "--out", str(root / "new.jsonl")]) == 2
    said = capsys.readouterr()
    assert message.format(f=folder) in said.err
    assert said.err.count("\n") == 1
    assert not (root / "new.jsonl").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _bomb(path: Path, side: int) -> None:
    """A few bytes that say they are gigabytes of pixels."""
    chunks = [(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    coded = (struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))


def test_what_is_worth_a_word_is_said(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = root / "flowers"
    shutil.copy(folder / "train/rose/001.png", folder / "val/rose/x.png")
    shutil.copy(folder / "train/rose/001.png", folder / "train/daisy/x.png")
    (folder / "val/rose/notes.txt").write_text("no image")
    (folder / "val/.DS_Store").write_text("no class")
    (folder / "train/rose/more").mkdir()
    shutil.copytree(folder / "train/daisy", tmp_path / "outside")
    shutil.rmtree(folder / "train/daisy")
    (folder / "train/daisy").symlink_to(tmp_path / "outside")  # content is what counts, wherever it lies
    assert main(["data", "manifest", str(folder), "--out", str(root / "new.jsonl"), "--evaluated", "val"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "finding: 1 evaluated image also in train, the first val/rose/x.png, as train/rose/001.png",
        "finding: 1 image of train more than once",
        "finding: 1 file left out, no image by the name: val/rose/notes.txt",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("000.png", "00O.png"), "altered: its lines are not those that its first line"),
        (lambda text: "{}\n" + text, "not one of `famba data manifest` (line 1: evaluated: Field required)"),
        (lambda text: "", "not one of `famba data manifest` (line 1: "),
        (
            lambda text: text.replace('"famba_manifest":1', '"famba_manifest":2'),
            "not one of `famba data manifest` (line 1: famba_",
        ),
    ],
)
def test_a_manifest_that_was_altered_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str], message: str
) -> None:
    manifest = root / "flowers.jsonl"
    manifest.write_text(change(manifest.read_text()))
    assert verified(root) == 2
    said = capsys.readouterr().err
    assert f"manifest {manifest}: {message}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("kind", ["png RGB", "png RGBA", "png LA", "png L", "png P", "png 1", "bmp RGB", "tif CMYK"])
def test_every_mode_is_the_colours_that_it_stands_for(kind: str) -> None:
    levels = image_folders.pixels(3, 12, 10)
    image = decoded(image_folders.encoded(kind, levels), Path("x"))
    wanted = Image.fromarray(levels).convert(kind.split()[1]).convert("RGB")
    assert image.mode == "RGB"
    assert (np.asarray(image) == np.asarray(wanted)).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(suffix: str) -> None:
    levels = image_folders.pixels(3, 12, 10)
    image = decoded(image_folders.encoded(f"{suffix} I;16", levels), Path("x"))
    assert (np.asarray(image) == levels[:, :, :1]).all()


@pytest.mark.parametrize(("width", "height"), [(20, 20), (31, 24), (24, 37), (9, 13)])
def test_an_evaluated_file_is_prepared_like_a_stored_image(width: int, height: int) -> None:
    """Exactly where it is enlarged; where it is made smaller, Pillow rounds in between in another order."""
    levels = image_folders.pixels(1, width, height)
    stored = _stored([levels])
    (batch, _), *_ = EvalLoader(stored, TIMM, 16, "cpu")
    image = centred(Image.fromarray(levels), 20, 16, Path("x"))
    other = replace(stored, test_images=np.asarray(image)[None])
    (again, _), *_ = EvalLoader(other, TIMM.model_copy(update={"eval_resize": None}), 16, "cpu")
    assert (batch - again).abs().max() <= (0 if min(width, height) <= 20 else 1.01 / 255 / 0.224)


def _stored(images: list[np.ndarray]) -> data.Dataset:
    digits = data.load("digits")
    labels = np.zeros(len(images), np.int64)
    return replace(digits, test_images=np.stack(images), test_labels=labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("recipe", [TENSOR, TIMM], ids=["tensor", "timm"])
def test_files_are_trained_on_like_the_same_images_in_memory(made: Path, recipe: Recipe, workers: int) -> None:
    files = load(made, 24)
    every = [
        np.stack([np.asarray(split[at]) for at in range(len(split))])
        for split in (files.train_images, files.test_images)
    ]
    memory = replace(files, train_images=every[0], test_images=every[1])
    recipe = recipe.model_copy(update={"workers": workers})
    loaders = [TrainLoader(dataset, recipe, 16, 0, "cpu") for dataset in (files, memory)]
    for one, other in zip(*(loader.epoch(1) for loader in loaders), strict=True):
        for (images, targets), (its_images, its_targets) in zip(one, other, strict=True):
            assert torch.equal(images, its_images)
            assert torch.equal(targets, its_targets)
    for rank in range(2):
        one, other = (EvalLoader(dataset, recipe, 16, "cpu", rank, 2) for dataset in (files, memory))
        assert len(one) == 14
        for (images, labels), (its_images, its_labels) in zip(one, other, strict=True):
            assert (images - its_images).abs().max() <= 1.01 / 255 / 0.224  # a level, by the order of two roundings
            assert torch.equal(labels, its_labels)


def test_images_of_all_sizes_go_through_the_papers_augmentation(made: Path) -> None:
    files = load(made)
    recipes = [TIMM.model_copy(update={"workers": workers}) for workers in (0, 2)]
    one, other = (
        [images for step in TrainLoader(files, recipe, 16, 0, "cpu").epoch(0) for images, _ in step]
        for recipe in recipes
    )
    assert all(images.shape == (8, 3, 16, 16) for images in one)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_strip_is_refused_where_its_long_side_could_not_be_held() -> None:
    with pytest.raises(InputError, match=r"^x\.png: 1 x 40,000 pixels are too narrow to be 256 pixels wide"):
        centred(Image.new("RGB", (1, 40_000)), 256, 224, Path("x.png"))


def test_a_sheet_is_drawn(made: Path, tmp_path: Path) -> None:
    words = ["--root", str(made), "--manifest", str(made / "flowers.jsonl"), "--out", str(tmp_path / "sheet.png")]
    assert main(["data", "show", "flowers", *words]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
