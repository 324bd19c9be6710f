"""Trainings with every method; with a random one, two runs and a run that was resumed end in the same bits."""

import signal
from pathlib import Path
from typing import Any

import pytest

from famba.config import Cell, Experiment
from famba.errors import Stopped
from famba.training.train import Training
from tests.helpers.cells import MICRO
from tests.helpers.method_cases import ELSEWHERE, METHOD_CASES, Case, label, own_settings
from tests.helpers.trainings import ends_as, same, weights

DATA = Path("data")
FEW_STEPS = {"global_batch": 256, "mixup_batch": 256, "micro_batch": 128}


def cell(case: Case, seed: int = 0, **recipe: Any) -> Cell:
    name, settings = case
    inside = settings.get("placement") == "inside"
    model = {**MICRO["models"]["vim_micro"], "cls_position": "head" if inside else "middle"}
    strategy = {"like": "upper", "method": name, "settings": own_settings(settings)}
    if placement := settings.get("placement"):
        strategy["placement"] = placement
    experiment = {
        **MICRO,
        "models": {"vim_micro": model},
        "strategies": ["baseline", "mine"],
        "schedules": {"mine": strategy},
        "seeds": [0, 1],
        "recipe": {**MICRO["recipe"], **FEW_STEPS, "epochs": 1, **recipe},
    }
    return Experiment.from_config(experiment).cell("vim_micro", "mine", seed)


@pytest.mark.parametrize("case", [*dict(reversed(METHOD_CASES)).items(), *ELSEWHERE], ids=label)
def test_every_method_trains_to_a_row(case: Case, tmp_path: Path) -> None:
    row = Training(cell(case), tmp_path, DATA).run()
    assert row.cell.fusion.method == case[0]
    assert row.tokens.measured[-1] == 17 - sum(row.cell.schedule)


@pytest.mark.parametrize("method", ["random_merge", "random_prune"])
def test_runs_are_the_same_bits_resumed_or_not(method: str, tmp_path: Path) -> None:
    case = (method, {})
    whole, again, resumed, other = (tmp_path / name for name in ("whole", "again", "resumed", "other"))
    for folder in (whole, again):
        Training(cell(case, epochs=2), folder, DATA).run()
    ends_as(again, whole)

    stopping = Training(cell(case, epochs=2), resumed, DATA)
    progress_step = stopping.progress.step

    def step(epoch: int, step: int, *rest: int) -> None:
        progress_step(epoch, step, *rest)
        if (epoch, step) == (1, 3):
            stopping.stop.signal = signal.SIGTERM

    stopping.progress.step = step
    with pytest.raises(Stopped):
        stopping.run()
    Training(cell(case, epochs=2), resumed, DATA).run()
    ends_as(resumed, whole)

    Training(cell(case, seed=1, epochs=2), other, DATA).run()
    assert not same(weights(whole), weights(other))


def test_every_step_and_micro_batch_draws_for_itself(tmp_path: Path) -> None:
    batches = {"global_batch": 128, "mixup_batch": 64, "micro_batch": 64}
    training = Training(cell(("random_prune", {}), **batches), tmp_path, DATA)
    keys: list[int] = []
    training.model.register_forward_pre_hook(lambda model, _: keys.append(int(model.key)) if model.training else None)
    training.run()
    assert len(keys) == 2 * (1437 // 128)
    assert len(set(keys)) == len(keys)
