"""Checkpoints that are damaged, torn or not finite: the row of an undisturbed training, or one line and no row."""

import csv
import json
import random
import signal
from pathlib import Path

import pytest
import torch

from famba import files
from famba.cli import main
from famba.config import Recipe
from famba.errors import CheckFailed, InputError, Stopped
from famba.results.epochs import write_epochs
from famba.results.predictions import read_predictions
from famba.results.row import read_row
from famba.results.tokens import read_tokens
from famba.training import checkpoint, optim
from famba.training.train import Training
from tests.helpers.cells import cell, small_cell
from tests.helpers.trainings import ends_as

DATA = Path("data")


class Killed(Exception):
    pass


def stop_after(training: Training, epochs: int) -> None:
    """Train so many epochs, as a training does that is killed between two of them."""
    save = training._save

    def stop() -> None:
        save()
        if len(training.history.epochs) == epochs:
            raise Killed

    training._save = stop
    with pytest.raises(Killed):
        training.run()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    Training(small_cell(), folder, DATA).run()
    return folder


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The two checkpoints of a training that was stopped after two of three epochs."""
    folder = tmp_path_factory.mktemp("halfway")
    stop_after(Training(small_cell(), folder, DATA), 2)
    return {name: (folder / name).read_bytes() for name in (checkpoint.NAME, checkpoint.PREVIOUS)}


def epochs_in(folder: Path) -> list[tuple[float, float]]:
    with (folder / "epochs.csv").open() as file:
        return [(float(line["train_loss"]), float(line["top1"])) for line in csv.DictReader(file)]


def test_epochs_are_there_as_they_end_and_a_resumed_training_continues_them(undisturbed, tmp_path):
    (tmp_path / "epochs.csv").write_text("of an earlier training\n")
    whole, seen = epochs_in(undisturbed), []
    training = Training(small_cell(), tmp_path, DATA)
    train_epoch = training._train_epoch
    training._train_epoch = lambda epoch: (seen.append(epochs_in(tmp_path)), train_epoch(epoch))
    stop_after(training, 2)
    assert seen == [[], whole[:1]]  # when each epoch begins
    assert epochs_in(tmp_path) == whole[:2]
    (tmp_path / "epochs.csv").unlink()  # as Snakemake does before a job that it runs again
    resumed = Training(small_cell(), tmp_path, DATA)
    train_epoch = resumed._train_epoch
    resumed._train_epoch = lambda epoch: (seen.append(epochs_in(tmp_path)), train_epoch(epoch))
    resumed.run()
    assert seen[2:] == [whole[:2]]
    assert epochs_in(tmp_path) == whole
    write_epochs(resumed.history.epochs, tmp_path / "at once.csv")
    assert (tmp_path / "epochs.csv").read_bytes() == (tmp_path / "at once.csv").read_bytes()


def test_a_result_that_is_to_be_replaced_keeps_its_epochs_until_then(undisturbed, tmp_path):
    for name in ("row.json", "epochs.csv"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    stop_after(Training(small_cell(), tmp_path, DATA), 2)
    assert (tmp_path / "epochs.csv").read_bytes() == (undisturbed / "epochs.csv").read_bytes()


def resume(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Training(small_cell(), folder, DATA).run()


def damaged(content: bytes, kind: str) -> bytes:
    places = {
        "start": 10,
        "middle": len(content) // 2,
        "end": len(content) - files.LENGTH - 30,
        "seal": len(content) - 5,
    }
    if kind in places:
        at = places[kind]
        return content[:at] + bytes(b ^ 0xFF for b in content[at : at + 4]) + content[at + 4 :]
    return {"torn": content[: len(content) * 2 // 3], "empty": b"", "text": b"not a checkpoint"}[kind]


@pytest.mark.parametrize("kind", ["start", "middle", "end", "seal", "torn", "empty", "text"])
def test_a_damaged_checkpoint_gives_way_to_the_previous_one(kind, halfway, undisturbed, tmp_path, capsys):
    resume(tmp_path, {**halfway, checkpoint.NAME: damaged(halfway[checkpoint.NAME], kind)})
    said = capsys.readouterr().err
    assert "checkpoint.pt is damaged (" in said
    assert "renamed to checkpoint.damaged.pt" in said
    assert "resuming after epoch 1 of 3" in said
    ends_as(tmp_path, undisturbed)
    assert (tmp_path / "checkpoint.damaged.pt").read_bytes() == damaged(halfway[checkpoint.NAME], kind)


def test_a_flipped_bit_anywhere_is_noticed(halfway, tmp_path):
    content = halfway[checkpoint.NAME]
    generator = random.Random(0)
    path = tmp_path / "checkpoint.pt"
    for at in (generator.randrange(len(content) * 8) for _ in range(300)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read(path, torch.device("cpu"))
    path.write_bytes(content)
    assert len(checkpoint.read(path, torch.device("cpu"))["history"]["epochs"]) == 2


def test_two_damaged_checkpoints_start_anew_and_are_kept(halfway, undisturbed, tmp_path, capsys):
    resume(tmp_path, {name: damaged(content, "middle") for name, content in halfway.items()})
    said = capsys.readouterr().err
    assert "starting anew" in said
    assert {path.name for path in tmp_path.glob("checkpoint.*")} == {"checkpoint.damaged.pt", "checkpoint.damaged-2.pt"}
    ends_as(tmp_path, undisturbed)


def test_killed_between_two_checkpoints(halfway, undisturbed, tmp_path):
    """The new one is not there yet, the last one is the previous one already; a part of the new one stays behind."""
    for name, content in {checkpoint.PREVIOUS: halfway[checkpoint.NAME], ".checkpoint.pt.77.part": b"half"}.items():
        (tmp_path / name).write_bytes(content)
    assert main(["train", "--cell", small_cell().model_dump_json(), "--out", str(tmp_path / "row.json")]) == 0
    assert not list(tmp_path.glob(".*.part"))
    ends_as(tmp_path, undisturbed)


def test_a_training_of_captured_graphs_resumes(tmp_path, monkeypatch, capsys):
    """Its optimiser's rate is a tensor, in the memory that the graph reads: a number would stay as it was captured."""

    def captured(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
        groups = optim.parameter_groups(model, recipe.weight_decay)
        return torch.optim.AdamW(groups, lr=torch.tensor(0.0), betas=recipe.betas, eps=recipe.eps, fused=True)

    monkeypatch.setattr(optim, "optimizer", captured)
    stopped = Training(small_cell(), tmp_path, DATA)
    stop_after(stopped, 2)
    resumed = Training(small_cell(), tmp_path, DATA)
    rates = [group["lr"] for group in resumed.state.optimizer.param_groups]
    assert all(isinstance(rate, torch.Tensor) for rate in rates)
    resumed._resume()
    assert "resuming after epoch 2 of 3" in capsys.readouterr().err
    assert all(isinstance(group["lr"], torch.Tensor) for group in resumed.state.optimizer.param_groups)
    assert resumed.state.lr == stopped.state.lr > 0


def planted(halfway: dict[str, bytes], folder: Path, change) -> None:
    """A checkpoint that is sealed, and holds something else than a training writes."""
    (folder / "whole.pt").write_bytes(halfway[checkpoint.NAME])
    state = torch.load(folder / "whole.pt", weights_only=True)
    change(state)
    with files.sealed_file(folder / checkpoint.NAME) as file:
        torch.save(state, file)


def swap(state: dict, one: int, other: int) -> None:
    moments = state["optimizer"]["state"]
    moments[one], moments[other] = moments[other], moments[one]


def moment(state: dict) -> dict:
    return state["optimizer"]["state"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["model"].update({"head.bias": torch.zeros(3)}),
        lambda s: s["model"].update({"head.bias": "zeros"}),
        lambda s: s["ema"].pop("head.bias"),
        lambda s: s["optimizer"]["state"].pop(0),
        lambda s: s["optimizer"].update(param_groups=[]),
        lambda s: s["optimizer"].update(param_groups=None),
        lambda s: s["optimizer"]["param_groups"][0].pop("betas"),
        lambda s: s["optimizer"]["param_groups"][0].update(lr="fast"),
        lambda s: s.update(optimizer=[]),
        lambda s: s["optimizer"].update(state=[]),
        lambda s: moment(s).update(exp_avg_sq=torch.zeros(3)),
        lambda s: moment(s).update(exp_avg="zeros"),
        lambda s: moment(s).update(step=3),
        lambda s: moment(s).update(exp_avg=moment(s)["exp_avg"].double()),
        lambda s: swap(s, 0, len(s["optimizer"]["state"]) - 1),
        lambda s: s["history"].update(epochs=None),
        lambda s: s["history"].update(epochs=[]),
        lambda s: s["history"].update(epochs=s["history"]["epochs"] * 4),
        lambda s: s["history"]["epochs"][0].update(top1="high"),
        lambda s: s["history"]["epochs"][0].update(epoch=1),
        lambda s: s["history"]["epochs"][0].update(train_loss=float("inf")),
        lambda s: s["history"].update(step_ms=["fast"]),
        lambda s: s["history"].update(total_s=None),
        lambda s: s["history"].update(started=3),
        lambda s: s.update(history=[]),
    ],
)
def test_another_content_is_set_aside(change, halfway, tmp_path, capsys):
    """And the training begins anew; that it then ends as if undisturbed, the test below shows."""
    planted(halfway, tmp_path, change)
    training = Training(small_cell(), tmp_path, DATA)
    training.stop.signal = signal.SIGTERM
    with pytest.raises(Stopped, match="stopped by SIGTERM at epoch 1 of 3, step 1 of"):
        training.run()
    assert (
        "a checkpoint of another version of famba; renamed to checkpoint.other-settings.pt" in capsys.readouterr().err
    )


@pytest.mark.parametrize("where", ["model", "ema", "exp_avg_sq"])
def test_values_that_are_not_finite_are_not_resumed(where, halfway, undisturbed, tmp_path, capsys):
    def spoil(state: dict) -> None:
        tensor = moment(state)[where] if where == "exp_avg_sq" else state[where]["head.bias"]
        tensor.fill_(float("nan"))

    planted(halfway, tmp_path, spoil)
    Training(small_cell(), tmp_path, DATA).run()
    assert "a checkpoint of values that are not finite; renamed to" in capsys.readouterr().err
    ends_as(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("no memory"), RuntimeError),
        (MemoryError(), MemoryError),
        (OSError(116, "Stale"), InputError),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_stays(error, raised, halfway, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    (tmp_path / checkpoint.NAME).write_bytes(halfway[checkpoint.NAME])
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(raised):
        Training(small_cell(), tmp_path, DATA).run()
    assert (tmp_path / checkpoint.NAME).read_bytes() == halfway[checkpoint.NAME]


@pytest.mark.parametrize("lr", [1e3, 1e4])
def test_a_training_that_diverges_has_no_row(lr, tmp_path, capsys):
    """With one step per epoch the loss itself stays finite until the last step."""
    settings = cell(lr=lr, global_batch=1408, mixup_batch=1408, micro_batch=1408)
    status = main(["train", "--cell", settings.model_dump_json(), "--out", str(tmp_path / "row.json")])
    assert status == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "finite" in line]
    assert "(lr " in line
    assert not (tmp_path / "row.json").exists()


@pytest.mark.parametrize(
    "what", ["parameter head.bias", "the moving average of head.bias", "the optimiser's exp_avg of head.bias"]
)
def test_no_checkpoint_holds_a_value_that_is_not_finite(what, tmp_path):
    training = Training(small_cell(), tmp_path, DATA)
    train_epoch = training._train_epoch

    def spoiled(epoch: int) -> None:
        train_epoch(epoch)
        if epoch == 1:
            with torch.no_grad():
                training.state.tensors()[what][0] = float("inf")

    training._train_epoch = spoiled
    with pytest.raises(CheckFailed, match=f"{what} is not finite after epoch 2 of 3"):
        training.run()
    assert not (tmp_path / "row.json").exists()
    state = checkpoint.read(tmp_path / checkpoint.NAME, training.device)  # the last good one
    assert len(state["history"]["epochs"]) == 1


def test_predictions_are_the_last_epochs(undisturbed):
    row = read_row(undisturbed / "row.json")
    made = read_predictions(undisturbed / "predictions.npz", row)
    assert made.top5.dtype == "uint8"
    assert made.top5.shape == (360, 5)
    assert 100 * made.correct.mean() == pytest.approx(row.metrics.last.top1)
    assert 100 * (made.top5 == made.labels[:, None]).any(axis=1).mean() == pytest.approx(row.metrics.last.top5)


@pytest.mark.parametrize(("name", "read"), [("tokens.npz", read_tokens), ("predictions.npz", read_predictions)])
def test_a_flipped_bit_in_what_figures_read_is_one_line(name, read, undisturbed, tmp_path):
    row, content = read_row(undisturbed / "row.json"), (undisturbed / name).read_bytes()
    generator = random.Random(1)
    path = tmp_path / name
    for at in (generator.randrange(len(content) * 8) for _ in range(300)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"checksum.*train the cell again"):
            read(path, row)
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "absent.npz", row)


def test_predictions_of_another_row_are_refused(undisturbed, tmp_path):
    content = json.loads((undisturbed / "row.json").read_text())
    content["metrics"]["last"]["top1"] -= 1 / 3.6
    content["metrics"]["best"] = content["metrics"]["last"]
    (tmp_path / "row.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"its top-1 of .* of the last epoch of row"):
        read_predictions(undisturbed / "predictions.npz", read_row(tmp_path / "row.json"))


def test_damaged_weights_are_no_start(undisturbed, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(damaged((undisturbed / "weights.pt").read_bytes(), "middle"))
    with pytest.raises(InputError, match="its checksum does not match"):
        Training(small_cell(), tmp_path / "cell", DATA, init=path)


def test_damaged_weights_from_elsewhere_are_no_start(undisturbed, tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save(torch.load(undisturbed / "weights.pt", weights_only=True)["model"], path)
    Training(small_cell(), tmp_path / "whole", DATA, init=path)
    path.write_bytes(damaged(path.read_bytes(), "middle"))
    with pytest.raises(InputError, match=r"damaged: the checksum of .* does not match"):
        Training(small_cell(), tmp_path / "cell", DATA, init=path)
