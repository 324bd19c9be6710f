"""`famba check --equals`: two protocols that reach the same accuracy, one that does not, and too few seeds to tell."""

import shutil

import numpy as np
import pytest

from famba.checks.equivalence import NOISE, agreements
from famba.cli import main
from famba.errors import InputError
from famba.results.summary import read_rows
from tests.helpers.rows import changed, paper_experiment, write_grid

FAST = {"precision": "bf16", "augmentation": "tensor", "cuda_graphs": True}


@pytest.fixture
def experiments(tmp_path):
    """The paper's grid of Vim-Ti under both protocols, with a spread of half a point over the seeds."""
    tiny = {"models": ["vim_tiny"]}
    fast = paper_experiment(**tiny).model_dump() | {"protocol": "fast"}
    fast["recipe"] |= FAST
    paths = {}
    for name, grid in {"paper": paper_experiment(**tiny), "fast": paper_experiment(**fast)}.items():
        paths[name] = write_grid(tmp_path / name, grid)
        for path in paths[name]:
            set_top1(path, 67 + 0.5 * (int(path.parent.name[-1]) - 1))
    return tmp_path / "paper", paths["fast"]


def set_top1(path, top1):
    changed(path, metrics={"last": {"top1": top1, "top5": 99.0}})


def test_equal_protocols_are_shown_to_be_equal(experiments, capsys):
    paper, fast = experiments
    assert main(["check", "--equals", str(paper), *map(str, fast)]) == 0
    out = capsys.readouterr().out
    assert out.count("| equal") == 5
    assert "all 5 checks hold" in out


def test_a_protocol_that_loses_accuracy_is_not(experiments, capsys):
    paper, fast = experiments
    for path in fast:
        if "upper" in path.parent.name:
            set_top1(path, 63 + 0.1 * int(path.parent.name[-1]))
    assert main(["check", "--equals", str(paper), *map(str, fast)]) == 1
    captured = capsys.readouterr()
    assert "| different" in captured.out
    assert "top-1 of vim_tiny-upper" in captured.err


def test_agreement_that_is_not_shown_does_not_pass(experiments, capsys):
    """One point apart, within the margin but too near its end to be sure."""
    paper, fast = experiments
    for path in fast:
        set_top1(path, 67.8 + 0.5 * (int(path.parent.name[-1]) - 1))
    assert main(["check", "--equals", str(paper), *map(str, fast)]) == 1
    assert "inconclusive" in capsys.readouterr().out


def test_the_error_rate_holds_at_the_margin(experiments):
    """Protocols exactly as far apart as the margin are called equal in 5 % of the runs at most, equal ones often."""
    paper, fast = experiments
    ours, theirs = (read_rows(paths) for paths in (fast, sorted(paper.glob("cells/*/row.json"))))
    rng = np.random.default_rng(11)

    def redrawn(rows, shift):
        for_seed = {}
        for path, row in rows.items():
            last = row.metrics.last.model_copy(update={"top1": 60 + shift + rng.normal(0, 1)})
            for_seed[path] = row.model_copy(update={"metrics": row.metrics.model_copy(update={"last": last})})
        return for_seed

    def share(shift, runs=200):
        found = [a for _ in range(runs) for a in agreements(redrawn(ours, shift), redrawn(theirs, 0))]
        return np.mean([a.verdict == "equal" for a in found])

    at_margin, equal = share(NOISE), share(0)
    print(f"called equal: {at_margin:.3f} at the margin, {equal:.3f} of equal protocols (n = 3)")
    assert at_margin <= 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5
    assert equal > 0.5


@pytest.mark.parametrize(
    ("lr", "kept", "message"),
    [
        (1e-3, "vim_tiny-*", "recipe.lr is 0.001 here and 0.0005 in the reference"),
        (5e-4, "vim_tiny-[ail]*", "vim_tiny-baseline has no row in the reference"),
    ],
)
def test_other_work_is_bad_input(experiments, lr, kept, message):
    paper, fast = experiments
    for path in fast[:3]:
        changed(path, cell={"recipe": {"lr": lr}})
    with pytest.raises(InputError, match=message):
        agreements(read_rows(fast[:3]), read_rows(sorted(paper.glob(f"cells/{kept}/row.json"))))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": {"train_digest": "0" * 64}}, "train digest of the data"),
        ({"data": {"test_digest": "0" * 64}}, "test digest of the data"),
        ({"data": {"decoder": "another"}}, "decoder of the images"),
        ({"init": {"weights": "x.pt", "sha256": "0" * 64}}, "training from scratch"),
    ],
)
def test_other_images_and_other_initial_weights_are_bad_input(experiments, capsys, change, what):
    paper, fast = experiments
    for path in paper.glob("cells/*/row.json"):
        changed(path, **change)
    assert main(["check", "--equals", str(paper), *map(str, fast)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"vim_tiny baseline: {what} is " in said.err
    assert said.err.count("\n") == 1


def test_a_training_is_not_compared_with_itself(experiments, tmp_path, capsys):
    _, fast = experiments
    copy = shutil.copytree(tmp_path / "fast", tmp_path / "copy")
    assert main(["check", "--equals", str(copy), *map(str, fast)]) == 2
    assert "vim_tiny-baseline-s0: the same training as in the reference" in capsys.readouterr().err


def test_a_checkpoint_of_each_seed_is_compared_seed_by_seed(experiments, capsys):
    paper, fast = experiments
    reference = sorted(paper.glob("cells/*/row.json"))
    for path in (*fast, *reference):
        seed = path.parent.name[-1]
        changed(path, cell={"recipe": {"init": "{seed}.pt"}}, init={"weights": f"{seed}.pt", "sha256": seed * 64})
    ours = [path for path in fast if not path.parent.name.endswith("s1")]
    assert main(["check", "--equals", str(paper), *map(str, ours)]) == 0
    for path in reference:
        if path.parent.name.endswith("s2"):
            changed(path, init={"sha256": "f" * 64})
    assert main(["check", "--equals", str(paper), *map(str, ours)]) == 2
    assert "initial weights of vim_tiny of seed 2 is 2222" in capsys.readouterr().err


def test_one_seed_and_an_empty_folder_are_bad_input(experiments, tmp_path, capsys):
    paper, fast = experiments
    first = [path for path in fast if path.parent.name.endswith("s0")]
    for folder in paper.glob("cells/*-s[12]"):
        (folder / "row.json").unlink()
    assert main(["check", "--equals", str(paper), *map(str, first)]) == 2
    assert "vim_tiny has one seed" in capsys.readouterr().err
    assert main(["check", "--equals", str(tmp_path / "nowhere"), *map(str, first)]) == 2
    assert "no cells/*/row.json here" in capsys.readouterr().err


def test_seeds_without_any_spread_say_so(experiments, capsys):
    """Every seed of a cell has the same accuracy, of which a computed standard deviation is not zero."""
    paper, fast = experiments
    for path in (*fast, *paper.glob("cells/*/row.json")):
        set_top1(path, 100 * 5005 / 10_000)
    assert np.std([100 * 5005 / 10_000] * 3) > 0
    assert main(["check", "--equals", str(paper), *map(str, fast)]) == 2
    assert "vim_tiny has the same top-1 in every seed of a strategy: with a spread of 0" in capsys.readouterr().err
