"""CIFAR-100 in the forms that users have: each is found, verified and read alike; what is not CIFAR-100 is named."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from famba import data
from famba.cli import main
from famba.config import Experiment
from famba.data import cifar100
from famba.data.cifar_names import CIFAR10
from famba.errors import InputError
from famba.results.row import read_row
from tests.helpers import ROOT
from tests.helpers import cifar_forms as forms
from tests.helpers.cifar_archive import Split

WRITERS: dict[str, Callable[[Path, dict[str, Split]], Path]] = {
    "images": forms.write_images,
    "binary": lambda root, splits: forms.write_folder(root, "binary", splits),
    "python": lambda root, splits: forms.write_folder(root, "python", splits),
}
TINY = {
    "experiment": "tiny",
    "protocol": "custom",
    "dataset": "cifar100",
    "models": {"vim_a": {"embed_dim": 8, "depth": 2, "img_size": 32, "patch_size": 16}},
    "strategies": ["upper"],
    "fusion": {"budget": "proportional"},
    "seeds": [0],
    "device": "cpu",
    "threads": 1,
    "recipe": {
        "epochs": 2, "warmup_epochs": 0, "global_batch": 50, "mixup_batch": 50, "micro_batch": 50, "eval_batch": 100,
        "min_lr": 0, "workers": 0, "repeats": 1, "augmentation": "tensor", "rand_augment": None, "random_erasing": 0,
        "eval_resize": None,
    },
}  # fmt: skip


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Split]:
    """A small set, which FAMBA_SOURCES makes the expected one."""
    made = forms.generate()
    monkeypatch.setenv("FAMBA_SOURCES", str(forms.write_sources(tmp_path / "sources.yaml", made)))
    return made


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_holds_the_same_records_in_the_same_order(splits, tmp_path, form):
    root = tmp_path / "data"
    folder = WRITERS[form](root, splits)
    loaded = data.load("cifar100", root)
    np.testing.assert_array_equal(loaded.train_images, splits["train"].images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(loaded.test_labels, splits["test"].fine)
    assert loaded.identity.sequence == data.verify("cifar100", folder).sequence  # also where root is the folder itself
    assert not loaded.identity.official


@pytest.mark.slow
def test_a_training_cannot_tell_the_forms_apart(splits, tmp_path):
    rows = []
    cell = Experiment.from_config(TINY).cells()[0].model_dump_json()
    for form, write in WRITERS.items():
        write(tmp_path / form, splits)
        out = tmp_path / "rows" / form / "row.json"
        assert main(["train", "--cell", cell, "--data", str(tmp_path / form), "--out", str(out)]) == 0
        rows.append(read_row(out))
    first, *others = rows
    for row in others:
        assert row.metrics == first.metrics
        assert row.data.model_copy(update={"source": first.data.source}) == first.data


def test_the_data_folder_can_be_named_by_the_environment(splits, tmp_path, monkeypatch):
    forms.write_folder(tmp_path / "elsewhere", "python", splits)
    monkeypatch.setenv("FAMBA_DATA", str(tmp_path / "elsewhere"))
    assert data.verify("cifar100").source == "cifar-100-python/"


def test_of_several_forms_the_first_that_is_verified_is_read(splits, tmp_path, capsys):
    root = tmp_path / "data"
    forms.write_images(root, splits)
    python = forms.write_folder(root, "python", splits)
    assert main(["data", "verify", "cifar100", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cifar100: cifar-100-python/, sha256 ")
    assert f"found: {python}, {root} (image folder {{train,test}}/<class>/*.png); {cifar100.CHOICE}" in said
    for split in ("train", "test"):
        assert f"{split} digest {getattr(data.verify('cifar100', root), f'{split}_digest')}" in said
    assert "verified as FAMBA_SOURCES says" in said

    (python / "test").unlink()
    assert data.verify("cifar100", root).source.startswith("image folder")
    assert f"not used: {python}: test missing from the folder; reading {root} (image folder" in capsys.readouterr().err


def test_where_a_form_is_there_nothing_is_fetched(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forms.write_folder(tmp_path / "data", "binary", splits)
    identity = tmp_path / "made" / "cifar100.json"
    assert main(["data", "pull", "cifar100", "--identity", str(identity)]) == 0
    assert json.loads(identity.read_text())["source"] == "cifar-100-binary/"
    assert data.fetch("cifar100", "data") == Path("data/cifar-100-binary")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-100-binary"]


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True], ids=["data", "FAMBA_DATA"])
def test_the_pipelines_data_rule_takes_a_folder(splits, checkout, tmp_path, monkeypatch, named):
    (checkout / "config" / "tiny.yaml").write_text(json.dumps(TINY))
    root = tmp_path / "elsewhere" if named else checkout / "data"
    forms.write_images(root, splits)
    if named:
        monkeypatch.setenv("FAMBA_DATA", str(root))
    row = "results/tiny/cells/vim_a-upper-s0/row.json"
    command = [sys.executable, "-m", "snakemake", row, "--cores", "all", "--configfile", "config/tiny.yaml"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert read_row(checkout / row).data.source.startswith("image folder")
    assert not list((checkout / "data").glob("*.tar.gz*"))


def _with(splits: dict[str, Split], split: str = "train", **changed: np.ndarray) -> dict[str, Split]:
    return {**splits, split: dataclasses.replace(splits[split], **changed)}


def _subset(splits):
    train = splits["train"]
    return _with(splits, images=train.images[::2], fine=train.fine[::2], coarse=train.coarse[::2])


def _swapped(splits):
    fine = splits["test"].fine.copy()
    fine[[3, 9]] = fine[[9, 3]]
    return _with(splits, "test", fine=fine)


def _class_missing(splits):
    train = splits["train"]
    there = train.fine != 7
    return _with(splits, images=train.images[there], fine=train.fine[there], coarse=train.coarse[there])


def _duplicated(splits):
    images = splits["train"].images.copy()
    images[1] = images[0]
    return _with(splits, images=images)


def _more(splits):
    train = splits["train"]
    again = [*range(200), 0, 1, 2]
    return _with(splits, images=train.images[again], fine=train.fine[again], coarse=train.coarse[again])


def _jpeg(splits):
    copies = []
    for image in splits["train"].images:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=5)
        copies.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return _with(splits, images=np.stack(copies))


def _altered(splits):
    images = splits["train"].images.copy()
    images[5, 0, 1, 2] ^= 1
    return _with(splits, images=images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_subset, "train: a subset: 100 of 200 images"),
        (_swapped, "test: swapped labels: the images are the published ones, their labels are not"),
        (_class_missing, "train: 99 of 100 classes, without "),
        (_duplicated, "train: duplicated images: 1 records are there more often"),
        (_more, "train: 203 images, expected 200, 3 of them duplicated"),
        (_jpeg, "train: a JPEG-compressed copy: steps between blocks of 8 pixels"),
        (_altered, "train: other pixels or labels: digest "),
    ],
)
def test_near_misses_are_named(splits, tmp_path, capsys, change, message):
    folder = forms.write_folder(tmp_path / "data", "binary", change(splits))
    assert main(["data", "verify", "cifar100", "--root", str(tmp_path / "data")]) == 2
    said = capsys.readouterr()
    assert f"{folder}: {message}" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_permuted_names_are_permuted_class_indices(splits, tmp_path):
    folder = forms.write_folder(tmp_path / "data", "binary", _swapped(splits))
    names = (folder / "fine_label_names.txt").read_text().split()
    names[3], names[9] = names[9], names[3]
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    with pytest.raises(InputError, match="permuted class indices: class 3 is named 'bottle', expected 'bear'"):
        data.load("cifar100", tmp_path / "data")


def _resize(root: Path) -> None:
    path = root / "train" / "bear" / "image_006.png"
    Image.open(path).resize((64, 48)).save(path)


def _as_jpeg(root: Path, name: str) -> None:
    path = root / "test" / "bear" / "image_003.png"
    with Image.open(path) as image:
        copy = image.copy()
    path.unlink()
    copy.save(path.with_name(name), "JPEG")


def _ten(root: Path) -> None:
    shutil.rmtree(root / "train")
    for name in CIFAR10:
        (root / "train" / name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_resize, "image_006.png: resized to 64 x 48, expected 32 x 32 pixels"),
        (lambda root: _as_jpeg(root, "image_003.jpg"), "image_003.jpg: a JPEG-compressed copy"),
        (lambda root: _as_jpeg(root, "image_003.png"), "image_003.png: a JPEG-compressed image"),
        (lambda root: shutil.rmtree(root / "test" / "bear"), "test: 1 of the 100 classes missing (bear)"),
        (lambda root: (root / "test" / "cat").mkdir(), "test: cat: not classes of CIFAR-100"),
        (lambda root: shutil.rmtree(root / "test"), "test is missing: an image folder has train/<class>/*.png"),
        (_ten, "airplane, automobile, bird, … are classes of CIFAR-10; expected the 100 of CIFAR-100"),
        (
            lambda root: (root / "test" / "bear" / "image_003.png").write_bytes(b"no image"),
            "image_003.png: cannot be read as an image",
        ),
    ],
    ids=["resized", "jpg", "disguised jpg", "class", "extra class", "split", "CIFAR-10", "damaged"],
)
def test_image_folders_that_are_not_cifar100(splits, tmp_path, capsys, change, message):
    change(forms.write_images(tmp_path, splits))
    assert main(["data", "verify", "cifar100", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_where_nothing_is_there_the_message_says_what_is_taken_and_names_cifar10(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    with pytest.raises(InputError) as caught:
        data.load("cifar100", tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'cifar-10-batches-py'} is CIFAR-10, which has 10 classes; ")
    for part in ("cifar-100-python/", "cifar-100-binary/", "<class>/*.png", "parquet", "FAMBA_DATA", "FAMBA_SOURCES"):
        assert part in said
    assert "\n" not in said


def test_parquet_files_without_pyarrow_are_one_line(splits, tmp_path, monkeypatch):
    (tmp_path / "train-00000-of-00001.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="Parquet files need pyarrow: pip install pyarrow"):
        data.load("cifar100", tmp_path)


def test_parquet_as_hugging_face_lays_it_out(splits, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "cifar100"
    folder.mkdir()
    for name, split in splits.items():
        images = []
        for image in split.images:
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        table = arrow.table({"img": images, "fine_label": split.fine, "coarse_label": split.coarse})
        parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    loaded = data.load("cifar100", tmp_path)
    np.testing.assert_array_equal(loaded.train_images, splits["train"].images.transpose(0, 2, 3, 1))
    parquet.write_table(arrow.table({"img": images, "label": split.fine}), folder / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"columns img, label \(CIFAR-10 has img and label\)"):
        data.load("cifar100", tmp_path)


def test_published_archives_are_not_refused_for_their_content(place, monkeypatch):
    """Their own sha256 decides; another content than the one pinned here is a finding."""
    root = place("binary").parent
    identity = dataclasses.replace(data.verify("cifar100", root), official=True)
    assert cifar100.findings(identity)[0].startswith("finding: the train digest is not 37a2b72bd30f")


@pytest.mark.slow
def test_the_real_images_have_these_digests(tmp_path, monkeypatch, real_data):
    tool = ROOT.parent / "shared" / "tools" / "cifar100.py"
    root = real_data or tmp_path
    if not real_data:
        if not (ROOT.parent / "shared" / "data" / "cifar100").is_dir():
            pytest.skip("the real CIFAR-100 is not here: set FAMBA_DATA")
        subprocess.run([sys.executable, tool, "binary", tmp_path], check=True, timeout=300)
    monkeypatch.delenv("FAMBA_SOURCES", raising=False)
    identity = data.verify("cifar100", root)
    assert identity.official
    assert identity.train_digest == "37a2b72bd30f9438ff20798c661450f58f138c034f556846cd744a56bbb09967"
    assert identity.test_digest == "b9ad4d741ee82873becf8846c246715e789a57766586a9677a8bbe26c8b30279"
