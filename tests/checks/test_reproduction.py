"""A row, trained again from itself: the same bits here, what differs by name, and what cannot be compared at all."""

import json
import re
import shutil
from pathlib import Path

import pytest

from famba.checks.reproduction import METRICS, Reproduction, compare, noise_floor, read_result
from famba.cli import main
from famba.config import Cell, Experiment
from famba.results.epochs import write_epochs
from famba.results.row import Row, read_row, write_row
from famba.training.train import Training
from tests.helpers.rows import experiment, make_row, write_grid

MICRO = {
    "experiment": "micro",
    "protocol": "smoke",
    "dataset": "digits",
    "models": {"vim_micro": {"embed_dim": 8, "depth": 2, "img_size": 16, "patch_size": 8}},
    "strategies": ["upper"],
    "seeds": [0],
    "fusion": {"budget": "proportional"},
    "device": "cpu",
    "recipe": {
        "epochs": 2, "global_batch": 256, "mixup_batch": 256, "micro_batch": 256, "lr": 2e-2, "warmup_epochs": 0,
        "repeats": 1, "workers": 0, "augmentation": "tensor", "rand_augment": None, "random_erasing": 0,
        "eval_resize": None,
    },
}  # fmt: skip


def cell(**recipe: object) -> Cell:
    settings = {**MICRO, "recipe": {**MICRO["recipe"], **recipe}}
    return Experiment.from_config(settings).cell("vim_micro", "upper", 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row, made as `famba train` makes it."""
    folder = tmp_path_factory.mktemp("trained") / cell().id
    Training(cell(), folder, Path("data")).run()
    return folder / "row.json"


@pytest.fixture
def row(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(trained.parent, tmp_path / "cells" / trained.parent.name) / "row.json"


def change(path: Path, **leaves: object) -> None:
    """Overwrite fields of a row, dots in their names as `__`."""
    tree = json.loads(path.read_text())
    for name, value in leaves.items():
        *parents, last = name.split("__")
        part = tree
        for parent in parents:
            part = part[parent]
        part[last] = value
    path.write_text(json.dumps(tree))


def verdicts(said: str) -> dict[str, str]:
    """Field and verdict of each line of a table."""
    lines = (line.strip("| ").split("|") for line in said.splitlines() if line.startswith("| "))
    return {line[0].split(" (")[0].strip(): line[-1].strip() for line in lines}


def test_the_same_bits_come_out_again(row: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(row), "--out", str(tmp_path / "again")]) == 0
    said = capfd.readouterr()
    found = verdicts(said.out)
    assert {found[name] for name in METRICS} == {"identical"}
    curves = [name for name in found if name.startswith("epochs.")]
    assert len(curves) == 5
    assert {found[name] for name in curves} == {"identical"}
    assert found["time.total"] == found["time.train"] == "not comparable"
    assert "differs" not in found.values()
    assert re.search(r"^vim_micro-upper-s0 +epoch 2/2", said.err, flags=re.MULTILINE)  # famba train's line
    assert read_row(tmp_path / "again" / cell().id / "row.json").metrics == read_row(row).metrics


def test_what_an_earlier_reproduction_left_is_not_taken_for_a_new_one(row: Path, tmp_path: Path) -> None:
    again = shutil.copytree(row.parent, tmp_path / "again" / row.parent.name) / "row.json"
    change(again, metrics__train_loss=0.0)
    assert main(["reproduce", str(row), "--out", str(tmp_path / "again")]) == 0
    assert read_row(again).metrics == read_row(row).metrics


def test_another_learning_rates_result_under_this_ones_settings_is_found_out(
    row: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Training(cell(lr=1e-2), tmp_path / "other", Path("data")).run()
    other = json.loads((tmp_path / "other" / "row.json").read_text())
    change(row, metrics=other["metrics"])
    (row.with_name("epochs.csv")).write_bytes((tmp_path / "other" / "epochs.csv").read_bytes())
    assert main(["reproduce", str(row)]) == 1
    said = capfd.readouterr()
    found = verdicts(said.out)
    assert found["metrics.train_loss"] == found["epochs.train_loss"] == found["epochs.lr"] == "differs"
    assert "metrics.train_loss of vim_micro-upper-s0 was" in said.err
    assert said.err.strip().splitlines()[-1].startswith("famba: error: not reproduced: ")


def test_a_row_that_was_changed_by_a_bit_is_found_out_by_comparison_alone(
    trained: Path, row: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", str(row), "--with", str(trained)]
    assert main(arguments) == 0
    assert "epoch 2/2" not in capfd.readouterr().err
    top1 = read_row(row).metrics.last.top1 - 1e-9
    same_epoch = {"metrics__best__top1": top1} if read_row(row).metrics.best.epoch == 1 else {}
    change(row, metrics__last__top1=top1, **same_epoch)
    assert main(arguments) == 1
    assert verdicts(capfd.readouterr().out)["metrics.last.top1"] == "differs"


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"data__test_digest": "0" * 64}, "row.json: made from digits with test digest 0000"),
        (
            {
                "cell__device": "cuda",
                "environment__device_kind": "cuda",
                "environment__device": "NVIDIA X",
                "memory__device_peak": 1,
                "time__step_cpu_ms": None,
                "time__step_ratio": None,
            },
            r"made on a GPU (NVIDIA X)",
        ),
        ({"cell__nodes": 2, "cell__processes": 2, "environment__world_size": 2}, "made on 2 nodes together"),
        ({"init": {"weights": "x.pt", "sha256": "0" * 64}}, "its training started from x.pt (sha256 0000"),
        (
            {"init": {"weights": "x.pt", "sha256": "0" * 64}, "cell__recipe__init": "pyproject.toml"},
            "started from x.pt with sha256 " + "0" * 64 + ", and what is at pyproject.toml now has ",
        ),
        ({"scan__backend": "mamba_ssm"}, "scan backend 'mamba_ssm'"),
        ({"data": None}, "row.json: not a valid row: data"),
    ],
)
def test_what_cannot_be_done_here_is_one_line(
    row: Path,
    spoilt: dict[str, object],
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    change(row, **spoilt)
    assert main(["reproduce", str(row)]) == 2
    said = capfd.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_bad_requests_are_one_line(row: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = write_grid(tmp_path / "other", experiment(strategies=["upper"], seeds=[0]))[0]
    twin = shutil.copytree(other.parent, tmp_path / "twin") / "row.json"
    change(twin, cell__recipe__lr=0.5)
    for arguments, message in (
        ([row.with_name("no.json")], "cannot read the row"),
        ([row, row], "give each cell once"),
        ([row, "--with", other], "none of the rows given with --with is called vim_micro-upper-s0"),
        ([other, "--with", twin], "differ in cell.recipe.lr"),
        ([row, "--out", row.parent.parent], "would be overwritten"),
        ([row, "--with", row, "--out", tmp_path], "with --with nothing is trained"),
    ):
        assert main(["reproduce", *map(str, arguments)]) == 2
        said = capfd.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    epochs = row.with_name("epochs.csv")
    epochs.write_text("".join(epochs.read_text().splitlines(keepends=True)[:-1]))
    assert main(["reproduce", str(other), "--with", str(other), "--floor", str(row)]) == 2
    assert f"{epochs}: expected epochs 0 to 1, one a line, found 1 lines" in capfd.readouterr().err
    epochs.unlink()
    assert main(["reproduce", str(row)]) == 2
    assert "cannot read the metrics per epoch" in capfd.readouterr().err


# -- the noise floor, on rows with made-up numbers ---------------------------------------------------------------------


def elsewhere(path: Path, folder: Path, points: float) -> Path:
    """A copy of a row as another machine might give it: every accuracy moved by that many points."""
    copy = shutil.copytree(path.parent, folder / path.parent.name) / "row.json"
    row = read_row(copy).model_dump()
    for which in ("last", "best", "ema_last", "ema_best"):
        row["metrics"][which]["top1"] += points
    row["environment"]["cpu"] = row["environment"]["device"] = "Another CPU"
    write_row(Row.model_validate(row), copy)
    epochs = read_result(copy).epochs
    write_epochs([{**epoch, "top1": epoch["top1"] + points} for epoch in epochs], copy.with_name("epochs.csv"))
    return copy


def compared(folder: Path, points: float, seeds: list[int]) -> Reproduction:
    paths = write_grid(folder / "here", experiment(seeds=seeds))
    results = [read_result(path) for path in paths]
    again = read_result(elsewhere(paths[0], folder / "there", points))
    return compare(results[0], again, noise_floor(results, results[0]))


def test_elsewhere_accuracies_are_held_to_the_scatter_between_seeds(tmp_path: Path) -> None:
    near = {field.name: field.verdict for field in compared(tmp_path / "near", 0.3, [0, 1, 2]).fields}
    assert near["metrics.last.top1"] == near["epochs.top1"] == "within the noise floor"
    assert near["metrics.last.top5"] == near["metrics.train_loss"] == "identical"
    assert near["environment.cpu"] == "not comparable"
    assert "differs" not in near.values()
    far = {field.name: field.verdict for field in compared(tmp_path / "far", -8, [0, 1, 2]).fields}
    assert far["metrics.last.top1"] == far["epochs.top1"] == "differs"


def test_without_two_seeds_there_is_no_noise_floor_and_only_the_same_bits_agree(tmp_path: Path) -> None:
    comparison = compared(tmp_path, 0.3, [0])
    assert not comparison.floor
    assert {field.verdict for field in comparison.fields if field.name == "metrics.last.top1"} == {"differs"}


def test_a_seed_counts_once_for_the_noise_floor(tmp_path: Path) -> None:
    paths = write_grid(tmp_path / "here", experiment(strategies=["baseline", "upper"], seeds=[0, 1]))
    results = [read_result(path) for path in paths]
    of = results[0]
    floor = noise_floor(results, of)
    assert {spread.df for spreads in floor.values() for spread in spreads} == {2}
    assert noise_floor([*results, *results], of) == floor
    assert noise_floor([of, of], of) == {}
    repeat = read_result(elsewhere(paths[0], tmp_path / "there", -20))  # another training of the same seed
    assert noise_floor([*results, repeat], of) == floor


def test_other_images_and_weights_are_no_part_of_the_noise_floor(tmp_path: Path) -> None:
    paths = write_grid(tmp_path, experiment(strategies=["upper"], seeds=[0, 1]))
    of = read_result(paths[0])
    other = next(path for path in paths if path.parent.name == of.row.id.replace("-s0", "-s1"))
    assert noise_floor([of, read_result(other)], of)
    change(other, init={"weights": "x.pt", "sha256": "0" * 64})
    assert noise_floor([of, read_result(other)], of) == {}
    change(other, init={"weights": "scratch", "sha256": None}, data__train_digest="0" * 64)
    assert noise_floor([of, read_result(other)], of) == {}


def test_rows_named_for_the_noise_floor_count_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = write_grid(tmp_path / "here", experiment(strategies=["upper"], seeds=[0, 1]))
    again = elsewhere(paths[0], tmp_path / "there", 0.1)
    copies = shutil.copytree(tmp_path / "here", tmp_path / "copy")
    given = ["reproduce", str(paths[0]), "--with", str(again)]
    main(given)
    alone = capfd.readouterr().out
    assert "known with 1 degrees of freedom" in alone
    main([*given, "--floor", *map(str, sorted(copies.glob("cells/*/row.json")))])
    assert capfd.readouterr().out == alone


def test_counts_must_agree_on_any_machine(tmp_path: Path) -> None:
    late = {"late": {"like": "upper", "method": "utr"}}
    for grid, verdict in (
        (experiment(strategies=["upper"]), "differs"),
        (experiment(strategies=["late"], schedules=late), "not comparable"),  # older code counted otherwise
    ):
        paths = write_grid(tmp_path / verdict, grid)
        results = [read_result(path) for path in paths]
        copy = elsewhere(paths[0], tmp_path / verdict / "there", 0)
        flops = make_row(grid.cells()[0]).cost.forward_flops
        change(copy, cost__forward_flops=flops + 1, memory__saved_activations=1)
        comparison = compare(results[0], read_result(copy), noise_floor(results, results[0]))
        found = {field.name: field.verdict for field in comparison.fields}
        assert found["cost.forward_flops"] == verdict
        assert found["memory.saved_activations"] == "not comparable"  # another machine may have another backend
