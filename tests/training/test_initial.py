"""Where a training starts: the seed's weights, those of a checkpoint, and no others."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.errors import CheckFailed, InputError
from famba.results.row import Initial, read_row
from famba.training import initial
from famba.training.train import Training
from tests.helpers.cells import cell


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished cell of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    Training(cell(epochs=1), folder, Path("data")).run()
    return folder


def test_a_fine_tuned_row_names_its_checkpoint_and_starts_there(trained, tmp_path):
    start = trained / "weights.pt"
    training = Training(cell(epochs=1), tmp_path, Path("data"), init=start)
    known = torch.load(start, weights_only=True)["model"]
    assert all(torch.equal(value, known[name]) for name, value in training.model.state_dict().items())
    average = training.state.ema.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in average.items() if name in known)
    row = training.run()
    assert row.init == Initial(weights="weights.pt", sha256=hashlib.sha256(start.read_bytes()).hexdigest())
    assert row.metrics.train_loss < read_row(trained / "row.json").metrics.train_loss
    assert read_row(trained / "row.json").init == initial.SCRATCH


def test_a_row_that_is_named_stands_for_the_weights_beside_it(trained, tmp_path, capsys):
    """Not for itself: its times differ where the weights are the same, and other weights may be put beside it."""
    start = shutil.copytree(trained, tmp_path / "start")
    command = ["train", "--cell", cell(epochs=1).model_dump_json(), "--init", str(start / "row.json")]
    out = ["--out", str(tmp_path / "cell" / "row.json")]
    assert main([*command, *out]) == 0
    expected = hashlib.sha256((start / "weights.pt").read_bytes()).hexdigest()
    assert read_row(tmp_path / "cell" / "row.json").init == Initial(weights="weights.pt", sha256=expected)
    shutil.copy(tmp_path / "cell" / "weights.pt", start / "weights.pt")
    assert main([*command, *out]) == 2
    assert "the result of other initial weights (weights.pt); --force replaces it" in capsys.readouterr().err
    recipe = cell(epochs=1).recipe.model_copy(update={"init": f"{start}/row.json"})
    assert cell(epochs=1).model_copy(update={"recipe": recipe}).init == start / "weights.pt"  # Snakemake's input, too


def test_weights_that_nobody_named_are_not_trained(tmp_path):
    training = Training(cell(epochs=1), tmp_path, Path("data"))
    with torch.no_grad():
        next(training.model.parameters())[0] += 1
    with pytest.raises(CheckFailed, match="the weights were modified before the first step"):
        training.run()
    assert not (tmp_path / "row.json").exists()


def test_a_checkpoint_of_other_initial_weights_is_set_aside(trained, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes((trained / "weights.pt").read_bytes())
    Training(cell(epochs=1), tmp_path, Path("data"), init=trained / "weights.pt").run()
    assert "is a checkpoint of other initial weights; renamed to" in capsys.readouterr().err


def test_a_result_of_other_initial_weights_is_not_taken_for_finished(trained, tmp_path, capsys):
    command = ["train", "--cell", cell(epochs=1).model_dump_json(), "--out", str(trained / "row.json")]
    assert main(command) == 0
    assert main([*command, "--init", str(trained / "weights.pt")]) == 2
    assert "the result of other initial weights (scratch); --force replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.pop("norm_f.weight"), "has no weights 'norm_f.weight'"),
        (lambda model: model.update(surplus=torch.zeros(1)), "the model has no 'surplus'"),
        (
            lambda model: model.update({"head.bias": torch.zeros(7)}),
            r"head.bias is of shape \[7\], .* needs \[10\]",
        ),
        (lambda model: model["head.bias"].fill_(torch.nan), "head.bias is not finite"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(trained, tmp_path, change, message):
    state = torch.load(trained / "weights.pt", weights_only=True)
    change(state["model"])
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=message) as error:
        Training(cell(), tmp_path, Path("data"), init=tmp_path / "other.pt")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read the initial weights"):
        Training(cell(), tmp_path, Path("data"), init=tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        Training(cell(), tmp_path, Path("data"), init=tmp_path / "text.pt")
