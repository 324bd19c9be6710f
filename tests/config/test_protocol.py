"""What `paper` and `fast` ask: an experiment that claims them and departs is refused, with a way out; rows are told."""

import pytest
import yaml

from famba.config import Cell, Experiment
from famba.config.protocol import deviation
from famba.errors import InputError
from tests.helpers import ROOT
from tests.helpers.cells import MINIMAL
from tests.helpers.rows import paper_experiment

PAPER = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
FAST = yaml.safe_load((ROOT / "config" / "fast.yaml").read_text())
SMOKE = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SMOKE | {"protocol": "paper"}, "dataset is digits, the protocol's cifar100"),
        (SMOKE | {"protocol": "fast", "dataset": "cifar100"}, "recipe.epochs is 6, the protocol's 300"),
        (PAPER | {"recipe": {"lr": 1.0e-3}}, "recipe.lr is 0.001, the protocol's 0.0005"),
        (PAPER | {"recipe": {"precision": "bf16"}}, "recipe.precision is bf16, the protocol's fp32"),
        (FAST | {"recipe": {"crop_scale": [0.5, 1]}}, "recipe.crop_scale is [0.5, 1.0], the protocol's [0.08, 1.0]"),
        (PAPER | {"fusion": {"order": "tome"}}, "fusion.order is tome, the protocol's sequence"),
        (
            PAPER | {"models": {"vim_tiny": {"embed_dim": 192, "d_state": 8}}},
            "models.vim_tiny.d_state is 8, the protocol's 16",
        ),
        (PAPER | {"cls_position": "middle"}, "models.vim_tiny.cls_position is middle, the protocol's head"),
    ],
)
def test_a_claim_to_a_protocol_is_held_to_it(settings, message):
    with pytest.raises(InputError) as error:
        Experiment.from_config(settings, "file.yaml")
    assert f"file.yaml: {message}" in str(error.value)
    assert "protocol: custom" in str(error.value)
    assert "\n" not in str(error.value)
    Experiment.from_config(settings | {"protocol": "custom"})  # the way out is one


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [7]},
        {"device": "cpu", "threads": 2, "scan": "chunked"},
        {"strategies": ["baseline", "upper"], "models": ["vim_tiny"]},
        {"processes": 4, "nodes": 2},
        {"recipe": {"micro_batch": 32, "eval_batch": 64, "workers": 2}},
        {"strategies": ["upper", "mine"], "schedules": {"mine": [0] * 12 + [13] * 12}},
        {"experiment": "again", "container": "other.sif", "claims": "config/fashion-mnist-claims.yaml"},
    ],
)
def test_what_a_protocol_leaves_open_may_be_set(changes):
    for published in (PAPER, FAST):
        recipe = published.get("recipe", {}) | changes.get("recipe", {})
        Experiment.from_config(published | changes | {"recipe": recipe})


def test_a_cell_by_hand_is_held_to_it_too():
    cell = paper_experiment(recipe={"epochs": 30}).cells()[0]
    with pytest.raises(InputError, match=r"--cell: recipe.epochs is 30, the protocol's 300.*protocol: custom"):
        Cell.from_json(cell.model_dump_json())
    settings = MINIMAL | {"seeds": [0], "protocol": "custom", "dataset": "cifar100", "cls_position": "head"}
    settings |= {"recipe": "paper-scripts"}
    changed = Experiment.from_config(settings).cell("vim_tiny", "upper", 0).model_copy(update={"schedule": (1,) * 24})
    with pytest.raises(InputError, match=r"--cell: schedule of upper is \[1, 1, .*, the protocol's \[0, 0, "):
        Cell.from_json(changed.model_copy(update={"protocol": "paper"}).model_dump_json())


def test_rows_are_asked_the_same():
    cell = paper_experiment(recipe={"epochs": 299, "micro_batch": 64}).cells()[0]
    assert deviation(cell) == "recipe.epochs is 299, the protocol's 300"
    fast = paper_experiment(protocol="fast", recipe={"precision": "bf16", "augmentation": "tensor"}).cells()[0]
    assert deviation(fast) is None
    assert deviation(fast.model_copy(update={"protocol": "paper"})) is not None
    assert deviation(cell.model_copy(update={"protocol": "custom"})) is None
