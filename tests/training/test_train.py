"""The loop on real digits: it learns, resumes bit for bit after a kill, and stops where it must."""

import csv
import signal
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.errors import CheckFailed
from famba.files import sealed_file
from famba.fusion import match, strategy
from famba.model import VisionMamba
from famba.results.row import read_row
from famba.training.activations import saved_activation_bytes
from famba.training.status import Status, read_status, write_status
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import cell, small_cell
from tests.helpers.trainings import same, weights

NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    Training(cell(), folder, Path("data")).run()
    return folder


def test_a_cell_ends_in_a_complete_row(finished):
    row = read_row(finished / "row.json")
    assert row.watermark == "SMOKE"
    assert row.metrics.last.top1 > 50  # chance is 10
    assert row.metrics.best.top1 >= row.metrics.last.top1
    assert row.metrics.images_seen == 3 * (1437 // 128) * 128
    assert row.tokens.measured == row.tokens.scheduled == (17, 13, 8, 5, 5)
    assert row.time.total >= row.time.train + row.time.evaluation
    assert row.time.warmup < row.time.train
    assert row.memory.device_peak is None
    assert row.scan.backend == "cpu"
    assert row.environment.packages["torch"] == torch.__version__
    assert not (finished / "checkpoint.pt").exists()
    with (finished / "epochs.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [int(epoch["epoch"]) for epoch in epochs] == [0, 1, 2]
    assert float(epochs[-1]["top1"]) == pytest.approx(row.metrics.last.top1, abs=1e-3)
    assert float(epochs[0]["train_loss"]) > float(epochs[-1]["train_loss"])
    with (finished / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [(int(s["epoch"]), int(s["step"])) for s in steps] == [(e, s) for e in range(3) for s in range(1437 // 128)]
    for epoch in range(3):
        losses = [float(s["loss"]) for s in steps if int(s["epoch"]) == epoch]
        assert sum(losses) / len(losses) == pytest.approx(float(epochs[epoch]["train_loss"]), rel=1e-5)


def test_a_short_epoch_without_a_moving_average(tmp_path, monkeypatch):
    training = Training(small_cell(epochs=2, steps_per_epoch=2, ema_decay=0), tmp_path, Path("data"))
    evaluated = []
    monkeypatch.setattr(training, "_between_batches", lambda: evaluated.append(1))
    training.run()
    row, kept = read_row(tmp_path / "row.json"), torch.load(tmp_path / "weights.pt", weights_only=True)
    assert row.metrics.images_seen == 2 * 2 * 256
    assert row.metrics.ema_last == row.metrics.last
    assert same(kept["ema"], kept["model"])
    assert len(evaluated) == 2 * 2  # two epochs of two batches, once each


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, tmp_path):
    Training(cell(), tmp_path / "again", Path("data")).run()
    assert same(weights(finished), weights(tmp_path / "again"))
    Training(cell().model_copy(update={"seed": 1}), tmp_path / "other", Path("data")).run()
    assert not same(weights(finished), weights(tmp_path / "other"))


def test_the_backend_is_chosen_for_the_precision_that_runs(tmp_path):
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        training = Training(cell(precision=precision).model_copy(update={"scan": "auto"}), tmp_path, Path("data"))
        assert f"the fastest that runs {dtype} on cpu" in training.scan.reason


def test_micro_batches_do_not_change_the_gradient(tmp_path):
    whole, split = (
        Training(cell("baseline", micro_batch=size), tmp_path / str(size), Path("data")) for size in (64, 16)
    )
    losses = [training.state.step.gradients(next(training.train_loader.epoch(0))) for training in (whole, split)]
    torch.testing.assert_close(*losses)
    for (name, p), q in zip(whole.model.named_parameters(), split.model.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-4 * p.grad.norm(), name


def test_a_killed_training_resumes_to_the_same_weights(finished, tmp_path, capsys):
    """A real kill -9 once a checkpoint is there; the re-run must end where the undisturbed training ended."""
    command = [
        sys.executable,
        "-m",
        "famba",
        "train",
        "--cell",
        cell().model_dump_json(),
        "--out",
        f"{tmp_path}/row.json",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "row.json").exists(), "the training ended before it could be killed"
    assert main(command[3:]) == 0
    said = capsys.readouterr().err
    assert "resuming after epoch" in said
    assert same(weights(finished), weights(tmp_path))
    assert read_row(tmp_path / "row.json").time.runs == 2
    assert "the run before was killed" in said
    assert len(said.strip().splitlines()) == 3  # that, the resumption and one progress line


def test_a_checkpoint_of_other_settings_is_set_aside(finished, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes((finished / "weights.pt").read_bytes())
    Training(cell(lr=1e-2), tmp_path, Path("data")).run()
    assert "is a checkpoint of other settings; renamed to checkpoint.other-settings.pt" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.other-settings.pt").exists()
    assert read_row(tmp_path / "row.json").time.runs == 1


def test_every_checkpoint_that_is_set_aside_is_kept(finished, tmp_path, capsys):
    """Twice other settings, then a checkpoint of a famba that remembers something else."""
    weights_file = finished / "weights.pt"
    for lr in (1e-2, 1e-3):
        (tmp_path / "checkpoint.pt").write_bytes(weights_file.read_bytes())
        Training(cell(lr=lr, epochs=1), tmp_path, Path("data")).run()
    state = torch.load(weights_file, weights_only=True)
    state["history"]["mood"] = state["history"].pop("warmup_s")
    with sealed_file(tmp_path / "checkpoint.pt") as file:
        torch.save(state, file)
    capsys.readouterr()
    Training(cell(), tmp_path, Path("data")).run()
    last = tmp_path / "checkpoint.other-settings-3.pt"
    assert f"a checkpoint of another version of famba; renamed to {last.name}" in capsys.readouterr().err
    kept = [tmp_path / f"checkpoint.other-settings{number}.pt" for number in ("", "-2")]
    assert [path.read_bytes() for path in kept] == 2 * [weights_file.read_bytes()]
    assert torch.load(last, weights_only=True)["history"]["mood"] == state["history"]["mood"]
    assert same(weights(finished), weights(tmp_path))


def test_a_diverging_loss_stops_the_cell_and_says_where(tmp_path):
    with pytest.raises(
        CheckFailed, match=r"vim_micro-upper-s0: the loss is .* at epoch \d, step \d+ .*first not finite: "
    ):
        Training(cell(lr=1e4), tmp_path, Path("data")).run()
    assert not (tmp_path / "row.json").exists()


def micro(**recipe):
    return Training(cell(**recipe), Path("never-written"), Path("data"))


def test_logits_that_are_not_finite_name_their_source_whichever_batch_has_it():
    training = micro(eval_batch=60)
    *_, (images, _) = training.test_loader
    last = images[-1]

    def break_one(_, inputs, out):
        return out.masked_fill((inputs[0] == last).flatten(1).all(1)[:, None, None], torch.nan)

    training.model.patch_embed.register_forward_hook(break_one)
    message = (
        r"the logits of 1 of 360 test images are not finite after epoch 0 .*first not finite: output of patch_embed$"
    )
    with pytest.raises(CheckFailed, match=message):
        training._evaluate(0)
    with (
        training.state.ema.applied_to(training.model),
        pytest.raises(CheckFailed, match="the moving average's logits of 1 of 360"),
    ):
        training._evaluate(0, average=True)


def test_the_source_of_a_loss_is_looked_for_in_all_micro_batches_of_its_step():
    training = micro()
    good, broken = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), torch.nan)
    with pytest.raises(CheckFailed, match=r"the loss is nan at epoch 3, step 1 \(lr 0.5\); .*: output of patch_embed"):
        training.finite_check.losses(torch.tensor([1.0, torch.nan]), 3, lambda _: 0.5, [good, broken])
    with pytest.raises(CheckFailed, match="first not finite: the loss itself"):
        training.finite_check.losses(torch.tensor([1.0, torch.nan]), 3, lambda _: 0.5, [good])


def test_the_images_of_a_step_are_gone_at_the_next(tmp_path, monkeypatch):
    """A step's memory is that of its own images: no check of the loss holds on to those of the step before."""
    training = Training(cell(epochs=1), tmp_path, Path("data"))
    gradients, before, alive = training.state.step.gradients, [], []

    def watched(batches, key):
        alive.extend(image() is not None for image in before)
        before[:] = [weakref.ref(images) for images, _ in batches]
        return gradients(batches, key)

    monkeypatch.setattr(training.state.step, "gradients", watched)
    training.run()
    assert len(alive) > 2
    assert not any(alive)


def test_a_loss_that_broke_some_steps_ago_blames_nothing_that_it_has_poisoned():
    """On a GPU, where the losses are read every 50 steps; the updates in between have spread the value."""
    training = micro()
    with torch.no_grad():
        training.model.norm_f.weight.fill_(torch.nan)
    with pytest.raises(CheckFailed) as raised:
        training.finite_check.losses(torch.tensor([1.0, *3 * [torch.nan]]), 0, lambda step: step, [])
    assert str(raised.value) == (
        "vim_micro-upper-s0: the loss is nan at epoch 0, step 1 (lr 1); found only 2 updates later; "
        "--check-every-step finds its source"
    )


def test_between_two_checks_of_a_gpu_a_diverging_loss_is_dated_to_its_step(tmp_path):
    training = Training(cell(lr=1e4), tmp_path, Path("data"))
    training.check_steps = 50  # as on a GPU
    with pytest.raises(CheckFailed, match=r"the loss is nan at epoch 0, step [1-9] .* found only \d updates? later"):
        training.run()
    assert [path.name for path in tmp_path.iterdir()] == ["epochs.csv"]
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == 1  # its head: no epoch has ended


def test_a_trace_that_differs_from_the_schedule_is_an_error(tmp_path, monkeypatch):
    """Planted: a model that fuses nothing, as the released code does."""
    monkeypatch.setattr("famba.methods.famba_v.match", lambda hidden, r, protected: match(hidden, 0, protected))
    with pytest.raises(CheckFailed, match="tokens per layer: the schedule says"):
        Training(cell(), tmp_path, Path("data"))


def test_saved_activations_follow_the_tokens():
    """What the forward pass keeps for the backward one is kept per token, in the tokens' proportion."""
    models = {
        name: VisionMamba(64, 6, 10, img_size=32, patch_size=4, fusion=strategy(name, 6, 65), scan="cpu")
        for name in ("baseline", "all", "interleaved", "lower", "upper")
    }
    saved = {name: saved_activation_bytes(model, torch.device("cpu"), nullcontext) for name, model in models.items()}
    for name, model in models.items():
        share = sum(model.scheduled_tokens[:-1]) / (6 * 65)
        assert saved[name] / saved["baseline"] == pytest.approx(share, abs=0.05), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_a_failure_before_the_first_step_replaces_the_status_of_the_run_before(tmp_path, capsys):
    write_status(tmp_path, Status(cell="a", epochs=1, state="stopped", pid=1, host="a", started=NOW, updated=NOW))
    paper = ["train", "--config", "config/paper.yaml", "--cell", "vim_tiny-upper-s0"]
    assert main([*paper, "--out", str(tmp_path / "row.json")]) == 2
    line = capsys.readouterr().err.removeprefix("famba: error: ").rstrip("\n")
    assert "no CUDA device" in line
    assert "\n" not in line
    assert (read_status(tmp_path).state, read_status(tmp_path).error) == ("failed", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cell", "{"], "--cell is not JSON"),
        (["--cell", "{}"], "--cell: experiment: Field required"),
        (["--cell", "a-b-s0"], "name the experiment it belongs to with --config"),
        (["--config", "config/smoke.yaml", "--cell", "vim_tiny_mini-uper-s0"], "did you mean 'vim_tiny_mini-upper-s0'"),
        (
            ["--config", "config/smoke.yaml", "--cell", "vim_tiny_mini-upper-s0", "--out", "x.json"],
            "is called row.json",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("famba: error: ")
    assert message in said
    assert said.count("\n") == 1
