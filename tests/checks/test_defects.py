"""The regression gate on real trainings: planted defects are caught, good runs pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from famba.checks import baseline, gate
from famba.cli import main
from famba.config import Experiment
from famba.errors import CheckFailed
from famba.model import VisionMamba
from famba.results.summary import read_rows
from famba.strategies import strategy
from famba.training import checks
from famba.training.train import Training
from tests.helpers.cells import MICRO
from tests.helpers.defects import (
    Patch,
    checks_silenced,
    class_token_fused,
    learning_rate_wrong,
    nothing_fused,
    order_scrambled,
    residual_merge_dropped,
)


def train(folder: Path, strategies: list[str], seeds: list[int]) -> list[Path]:
    """Real trainings of seconds: a Vision Mamba of four layers that fuses in each, on digits."""
    recipe = {**MICRO["recipe"], "epochs": 5, "lr": 3e-2}  # seeds differ by less than two points then
    grid = Experiment.from_config({**MICRO, "recipe": recipe, "strategies": strategies, "seeds": seeds})
    for cell in grid.cells():
        Training(cell, folder / cell.id, Path("data")).run()
    return [folder / cell.id / "row.json" for cell in grid.cells()]


def check(rows: list[Path], frozen: Path, *options: str) -> int:
    """The command, deaf to times: the machine may be busy."""
    return main(["check", "--against", str(frozen), "--time-margin", "1000", *options, *map(str, rows)])


@pytest.fixture(scope="module")
def good(once) -> list[Path]:
    folder = once("good", lambda folder: train(folder, ["baseline", "all"], [0, 1, 2]))
    return sorted(folder.glob("*/row.json"))


@pytest.fixture(scope="module")
def frozen(good, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "micro.json"
    assert main(["check", "--freeze", str(path), *map(str, good)]) == 0
    return path


@pytest.mark.slow
def test_a_good_run_passes_with_seeds_of_its_own(frozen, tmp_path, capsys):
    rows = train(tmp_path, ["baseline", "all"], [3, 4])
    assert check(rows, frozen) == 0
    assert "checks hold" in capsys.readouterr().out
    assert check([path for path in rows if path.parent.name.endswith("s3")], frozen) == 0  # one seed
    assert main(["check", "--rules", *map(str, rows)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "strategies", "caught_by"),
    [
        (class_token_fused, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (residual_merge_dropped, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (order_scrambled, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (learning_rate_wrong, ["baseline", "all"], {"top-1 (%)", "learning rate"}),
    ],
)
def test_a_planted_defect_is_caught(
    defect: Callable[[Patch], None], strategies, caught_by, good, frozen, tmp_path, monkeypatch, capsys
):
    """By one seed against three, which sees less than three would, and is what CI trains."""
    with monkeypatch.context() as patch:
        defect(patch)
        checks_silenced(patch)
        rows = train(tmp_path, strategies, [0])
    # what fusion does leaves the unfused cell as it is, to the last bit
    rows += [path for path in good if path.parent.name.endswith("baseline-s0") and "baseline" not in strategies]
    assert check(rows, frozen) == 1
    assert "| regression |" in capsys.readouterr().out.splitlines()[2]
    lines = gate.check(read_rows(rows), baseline.read(frozen), time_margin=1000)
    assert caught_by <= {line.check for line in lines if line.verdict == "regression"}


@pytest.mark.parametrize("name", ["all", "interleaved", "lower", "upper"])
@pytest.mark.parametrize(
    ("defect", "said"),
    [
        (class_token_fused, "the class token was changed"),
        (residual_merge_dropped, "the residual stream is not reduced as the hidden states are"),
        (order_scrambled, "the tokens are not in their order"),
    ],
)
def test_no_training_starts_with_a_wrong_fusion(defect, said, name, monkeypatch):
    model, cpu = VisionMamba(16, 12, 10, 32, 4, fusion=strategy(name, 12, 65)), torch.device("cpu")
    checks.check_reduction(model, cpu)
    defect(monkeypatch)
    with pytest.raises(CheckFailed, match=said):
        checks.check_reduction(model, cpu)


@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize("cls_position", ["middle", "head"])
def test_a_right_fusion_passes_however_it_orders_tokens(order, cls_position):
    model = VisionMamba(16, 6, 10, 32, 4, cls_position=cls_position, fusion=(9, 0, 30, 5, 1, 2), order=order)
    checks.check_reduction(model, torch.device("cpu"))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return out


def test_the_check_of_a_long_sequence_holds_pairs_of_tokens_and_not_their_channels():
    model = VisionMamba(64, 2, 10, 128, 4, fusion=(0, 200))
    with Largest() as largest:
        checks.check_reduction(model, torch.device("cpu"))
    assert 825 * 1025 <= largest.elements < 2 * 825 * 1025


@pytest.mark.slow
def test_fusing_nothing_is_caught_three_times(good, frozen, tmp_path, monkeypatch):
    """By the training itself; with its check put out, by the saved activations; in settings, by the schedule."""
    unfused = [path for path in good if "baseline" in path.parent.name]
    with monkeypatch.context() as patch:
        nothing_fused(patch)
        checks_silenced(patch)
        rows = train(tmp_path / "silent", ["all"], [0])
    assert check(rows + unfused, frozen) == 1
    lines = gate.check(read_rows(rows + unfused), baseline.read(frozen), time_margin=1000)
    assert [line.cell for line in lines if line.check.startswith("saved") and line.verdict == "regression"] == [
        "vim_micro-all"
    ]
    with monkeypatch.context() as patch:
        nothing_fused(patch)
        with pytest.raises(CheckFailed, match="tokens per layer: the schedule says"):
            train(tmp_path / "trace", ["all"], [0])
    with monkeypatch.context() as patch:
        patch.setattr("famba.config.experiment.strategy", lambda name, depth, tokens: (0,) * depth)
        rows = train(tmp_path / "schedule", ["all"], [0])
    assert check(rows + unfused, frozen) == 2
