"""`famba check --rules` on the files beside a row: whole and the row's own, or a finding that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from famba import files
from famba.checks import rules
from famba.cli import main
from famba.results import predictions, tokens
from famba.results.arrays import write_arrays
from famba.results.row import read_row
from famba.results.summary import read_rows
from famba.training.train import Training
from tests.helpers.cells import cell

FILES = {"predicted": predictions.NAME, "fused": tokens.NAME, "weights": "weights.pt"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, really trained."""
    folder = tmp_path_factory.mktemp("trained")
    for one in (cell(), cell().model_copy(update={"seed": 1})):
        Training(one, folder / one.id, Path("data")).run()
    return folder


@pytest.fixture
def rows(trained: Path, tmp_path: Path) -> list[Path]:
    """Rows of a copy to spoil."""
    return sorted(shutil.copytree(trained, tmp_path / "copy").glob("*/row.json"))


def verdicts(rows: list[Path]) -> dict[tuple[str, int], tuple[str, str]]:
    """Verdict and detail by rule and place of the row."""
    places = {read_row(path).id: place for place, path in enumerate(rows)}
    found = [finding for finding in rules.apply(read_rows(rows)) if finding.rule in FILES]
    return {(finding.rule, places[finding.row]): (finding.verdict, finding.detail) for finding in found}


def test_files_as_a_training_leaves_them(rows: list[Path]) -> None:
    assert set(verdicts(rows).values()) == {("ok", "")}
    assert len(verdicts(rows)) == 6


@pytest.mark.parametrize("rule", FILES)
def test_a_flipped_bit_is_one_finding(rows: list[Path], rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows[0].with_name(FILES[rule])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = verdicts(rows)
    verdict, detail = found.pop((rule, 0))
    assert verdict == "broken"
    assert detail.startswith(f"{path}: ")
    assert "its checksum does not match" in detail
    assert set(found.values()) == {("ok", "")}
    assert main(["check", "--rules", *map(str, rows)]) == 1
    assert f"| {path}: " in capsys.readouterr().out


@pytest.mark.parametrize("rule", FILES)
def test_a_missing_file_is_a_finding_where_another_row_has_its_own(rows: list[Path], rule: str) -> None:
    path = rows[1].with_name(FILES[rule])
    path.unlink()
    found = verdicts(rows)
    assert found[rule, 1][0] == "broken"
    assert found[rule, 1][1].startswith(f"{path}: not there")
    assert found[rule, 0] == ("ok", "")


def test_a_file_that_no_row_has_is_absent_and_holds_nothing(
    rows: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for row in rows:
        row.with_name("tokens.npz").unlink()
    assert verdicts(rows)["fused", 0] == ("absent", "")
    main(["check", "--rules", *map(str, rows)])
    said = capsys.readouterr()
    assert "| fused      | 2 rows" in said.out
    asked = [finding for finding in rules.apply(read_rows(rows)) if finding.verdict in ("ok", "broken")]
    assert f" of {len(asked)} checks failed" in said.err


def another_rows(path: Path) -> None:
    other = next(folder for folder in path.parent.parent.iterdir() if folder != path.parent)
    shutil.copy(other / path.name, path)


def another_kind(path: Path) -> None:
    """A sealed file of no known kind."""
    with files.sealed_file(path) as file:
        file.write(b"no archive")


def without_a_field(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    del arrays["labels" if "labels" in arrays else "groups"]
    write_arrays(path, **arrays)


@pytest.mark.parametrize(
    ("rule", "spoil", "detail"),
    [
        ("predicted", another_rows, "is not the"),
        ("weights", another_rows, "weights of another cell than row"),
        ("predicted", another_kind, "cannot read the predictions (it is damaged: BadZipFile)"),
        ("fused", another_kind, "cannot read the token record (it is damaged: BadZipFile)"),
        ("weights", another_kind, "these are no weights of a training (BadZipFile)"),
        ("predicted", without_a_field, "cannot read the predictions (it has no labels)"),
        ("fused", without_a_field, "cannot read the token record (it has no groups)"),
    ],
)
def test_a_foreign_file_is_one_finding(rows: list[Path], rule: str, spoil: Callable[[Path], None], detail: str) -> None:
    path = rows[0].with_name(FILES[rule])
    spoil(path)
    found = verdicts(rows)
    verdict, said = found.pop((rule, 0))
    assert verdict == "broken"
    assert said.startswith(f"{path}: ")
    assert detail in said
    assert "\n" not in said
    assert set(found.values()) == {("ok", "")}


def rewrite(path: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change arrays of a file and seal it again."""
    with np.load(path) as file:
        arrays = dict(file)
    write_arrays(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})


@pytest.mark.parametrize(
    ("rule", "changes", "detail"),
    [
        ("predicted", {"top5": lambda top5: np.roll(top5, 1, axis=1)}, "its top-1 of"),
        ("predicted", {"top5": lambda top5: np.repeat(top5[:, :1], 5, axis=1)}, "its top-5 of"),
        ("predicted", {"top5": lambda top5: top5[1:]}, "are not of 360 images and 5 classes"),
        ("predicted", {"labels": lambda labels: labels + np.uint8(200)}, "other classes than 0 to 9"),
        ("predicted", {"test_digest": lambda _: np.array("0" * 64)}, "predictions of other test images"),
        ("fused", {"groups": np.zeros_like}, "tokens per layer"),
        ("fused", {"groups": lambda groups: groups[:0], "images": lambda images: images[:0]}, "it has no example"),
        ("fused", {"best_match": lambda best: best * np.nan}, "no finite numbers"),
        ("fused", {"best_match": lambda best: best.astype(str)}, "no finite numbers"),
        ("fused", {"lowest": lambda lowest: np.full(2, lowest)}, "its arrays are not of"),
        ("fused", {"seen": lambda seen: seen.astype(str)}, "no finite numbers"),
    ],
)
def test_what_a_file_says_is_compared_with_its_row(rows: list[Path], rule: str, changes, detail: str) -> None:
    rewrite(rows[0].with_name(FILES[rule]), **changes)
    verdict, said = verdicts(rows)[rule, 0]
    assert verdict == "broken"
    assert detail in said


@pytest.mark.parametrize(
    ("part", "key", "value", "detail"),
    [("data", "order_digest", "0" * 64, "other data"), ("metrics", "last", None, "another accuracy")],
)
def test_weights_of_another_training(rows: list[Path], part: str, key: str, value: str | None, detail: str) -> None:
    content = json.loads(rows[0].read_text())
    content[part][key] = content[part][key] | {"top5": 100.0} if value is None else value
    if value is None:
        content["metrics"]["best"] = content["metrics"]["last"]
    rows[0].write_text(json.dumps(content))
    verdict, said = verdicts(rows)["weights", 0]
    assert verdict == "broken"
    assert f"weights of {detail} than row" in said
