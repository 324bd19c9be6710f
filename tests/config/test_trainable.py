"""Settings that are in range one by one and cannot be trained together: refused at once, in the words of the file."""

import re
import subprocess
import sys

import pytest
import yaml

from famba.cli import main
from famba.config import Experiment
from famba.config.experiment import ScanName
from famba.config.trainable import RAND_AUGMENT
from famba.data.augment.randaugment import Policy
from famba.data.augment.timm import timm_data
from famba.errors import InputError
from famba.ops import BACKENDS
from famba.strategies import NAMED, beyond_cap, strategy
from tests.helpers import ROOT
from tests.helpers.cells import MINIMAL
from tests.helpers.rows import experiment

FOUR = {"m": {"embed_dim": 8, "depth": 4, "img_size": 32, "patch_size": 4}}  # 65 tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"warmup_epochs": 6, "epochs": 5}}, "recipe.warmup_epochs: 6 of only 5 epochs"),
        ({"recipe": {"min_lr": 99}}, "recipe.min_lr: 99 is above the peak of 0.0005"),
        (
            {"recipe": {"global_batch": 8, "mixup_batch": 8, "micro_batch": 8}},
            "recipe.min_lr: 1e-05 is above the peak of 7.81e-06 (lr 0.0005 at a global_batch of 8 instead of 512)",
        ),
        ({"recipe": {"crop_scale": [1, 0.5]}}, "recipe.crop_scale: [1, 0.5] is not [least, largest]"),
        ({"recipe": {"eval_resize": 8}}, "recipe.eval_resize: 8 is less than the 224 pixels of vim_tiny"),
        ({"recipe": {"rand_augment": "rand-q9"}}, "recipe.rand_augment: 'rand-q9' is no RandAugment"),
        (
            {"recipe": {"rand_augment": "rand-n3-inc1", "augmentation": "tensor"}},
            "recipe.rand_augment: 'rand-n3-inc1' is no RandAugment that augmentation tensor knows",
        ),
        (
            {
                "processes": 4,
                "device": "cuda",
                "recipe": {"cuda_graphs": True, "global_batch": 384, "mixup_batch": 128, "micro_batch": 64},
            },
            "recipe.cuda_graphs: a graph has fixed shapes, and the 96 images of each of 4 processes are no whole",
        ),
        (
            {"models": FOUR, "strategies": ["lots"], "schedules": {"lots": [0, 0, 0, 50]}},
            "schedules.lots: lots asks for 50 tokens in layer 3 of m, where 32 can be fused",
        ),
        (
            {"models": FOUR, "schedules": {"unused": [33, 0, 0, 0]}, "strategies": ["baseline"]},
            "schedules.unused: unused asks for 33 tokens in layer 0 of m, where 32 can be fused",
        ),
        (
            {"models": {"m": FOUR["m"] | {"depth": 24}}},
            "fusion.budget: paper's all asks for 7 tokens in layer 8 of m, where 4 can be fused, half of those that "
            "are left; fusion: {budget: proportional} scales it",
        ),
        ({"models": FOUR, "schedules": {"mine": [1, 1, 1]}}, "schedules.mine has 3 layers and the model 4 (m)"),
        ({"schedules": {"upper": [0] * 24}}, "schedules: upper is a published strategy"),
        *(
            ({"recipe": {key: 1e308}}, f"recipe.{key}: 1e+308 is more than")
            for key in ("lr", "warmup_lr", "min_lr", "weight_decay", "eps", "mixup", "cutmix")
        ),
        ({"recipe": {"epochs": 1e30}}, "recipe.epochs: Input should be a valid integer, found 1e+30"),
        ({"recipe": {"eval_resize": 10**6}}, "recipe.eval_resize: 1,000,000 is more than 4,096"),
        ({"threads": 2**40}, "threads: 1,099,511,627,776 is more than 1,024"),
        ({"models": {"m": FOUR["m"] | {"depth": 1025}}}, "models.m.depth: Input should be less than or equal to 1024"),
        ({"container": ""}, "container: String should have at least 1 character"),
        ({"container": "a\nb"}, "container: is no line of text without control characters, found 'a\\nb'"),
        ({"experiment": "x" * 101}, "experiment: String should have at most 100 characters"),
        ({"schedules": {f"s{i}": {"like": "upper"} for i in range(10_001)}}, "a grid of 10,001 cells"),
        (
            {"schedules": {"s": {"like": "upper", "method": "/dev/zero.py:C"}}},
            "schedules.s: method /dev/zero.py: no such",
        ),
        (
            {"schedules": {"s": {"like": "upper", "method": "hsa", "settings": {"x": float("nan")}}}},
            "schedules.s.settings.x: a method's setting is a number, a text, true or false; found nan",
        ),
    ],
)
def test_what_cannot_be_trained_as_written_is_one_line(change, message):
    settings = MINIMAL | change
    if "models" in change:
        settings |= {"recipe": {"eval_resize": None}}
    with pytest.raises(InputError) as error:
        Experiment.from_config(settings, "file.yaml")
    assert f"file.yaml: {message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schedule_up_to_the_cap_is_carried_out():
    grid = MINIMAL | {"models": FOUR, "schedules": {"most": [32, 16, 8, 4]}, "strategies": ["most"]}
    (cell,) = Experiment.from_config(grid | {"recipe": {"eval_resize": 32}}).cells()
    assert beyond_cap(cell.schedule, 65, cell.architecture.cls_index) is None


def test_the_published_strategies_fit_the_published_models():
    for name in NAMED:
        assert beyond_cap(strategy(name), 197, 98) is None
        assert beyond_cap(strategy(name), 197, 0) is None


def test_a_scaled_down_share_is_meant_as_far_as_it_goes():
    """The demo's interleaved: its last layer has 20 tokens left, the class token among them, and 9 pairs."""
    cell = experiment().cell("vim_tiny_mini", "interleaved", 0)
    assert beyond_cap(cell.schedule, cell.architecture.tokens, cell.architecture.cls_index) == (11, 10, 9)


@pytest.mark.parametrize(
    "written",
    ["rand-m9-mstd0.5-inc1", "rand-m9-p1-inc1", "rand-m9-inc1", "rand-m9.5-inc1", "rand-n3-m9", "rand-m9", "rand", "",
     "rand-q9", "rand-m9-mstd", "rand-m9-inc2", "rand-tweights-m9", "rand-m9-mmax12", "m9-inc1", "rand m9"],
)  # fmt: skip
def test_rand_augment_is_written_as_both_implementations_read_it(written):
    def read(by) -> bool:
        try:
            by(written)
        except (InputError, AssertionError, KeyError, ValueError):
            return False
        return True

    assert bool(re.fullmatch(RAND_AUGMENT["tensor"], written)) == read(Policy.parse)
    timm = timm_data().auto_augment.rand_augment_transform
    if written != "rand-m9-mstd":  # a section without its number, which timm passes over in silence
        assert bool(re.fullmatch(RAND_AUGMENT["timm"], written)) == read(timm)


def test_the_backends_that_a_file_may_name_are_those_there_are():
    assert set(ScanName.__args__) == {"auto", *BACKENDS}


@pytest.mark.parametrize("command", [["plan", "--device", "a100"], ["train", "--cell", "m-lots-s0"]])
def test_every_command_that_reads_the_file_says_so(tmp_path, capsys, command):
    path = tmp_path / "lots.yaml"
    grid = MINIMAL | {"models": FOUR, "strategies": ["lots"], "schedules": {"lots": [0, 0, 0, 50]}}
    path.write_text(yaml.safe_dump(grid | {"recipe": {"eval_resize": None}}))
    assert main([*command, "--config", str(path)]) == 2
    said = capsys.readouterr()
    assert "layer 3 of m" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_it_needs_no_torch():
    code = "import sys, famba.config.trainable; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
