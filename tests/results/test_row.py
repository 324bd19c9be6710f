"""Result rows: what a row refuses to be, and how it reaches the disk."""

import json
import math
import os

import jsonschema
import pytest
from pydantic import ValidationError

from famba.errors import InputError
from famba.files import atomic_file
from famba.results.epochs import write_epochs
from famba.results.row import Row, read_row, write_row
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row

ROW = make_row(experiment().cells()[1])
SCHEMA = json.loads((ROOT / "config" / "schema" / "row.json").read_text())


def test_a_row_survives_the_disk_and_meets_the_published_schema(tmp_path):
    row = ROW
    write_row(row, tmp_path / "cell" / "row.json")
    assert read_row(tmp_path / "cell" / "row.json") == row
    jsonschema.validate(json.loads((tmp_path / "cell" / "row.json").read_text()), SCHEMA)
    assert os.listdir(tmp_path / "cell") == ["row.json"]


def last(**changes: float) -> dict[str, float]:
    return ROW.metrics.last.model_dump() | changes


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("version", 1, "format version 1, but this famba reads version 2"),
        ("metrics.last.top5", 12.0, "metrics.last: top-5 12 % is below top-1"),
        ("metrics.ema_best.top5", 12.0, "metrics.ema_best: top-5 12 % is below top-1"),
        ("metrics.best.top1", 12.0, "metrics.best: top-1 12 % is below the last epoch's"),
        ("metrics.ema_best.top1", 12.0, "metrics.ema_best: top-1 12 % is below the last epoch's"),
        ("metrics.best", last(top1=99.0, top5=99.0), "metrics.best and last are of epoch 5 and differ"),
        ("metrics.last.epoch", 1e30, "metrics.last.epoch: "),
        ("metrics.last.epoch", 3, "metrics.last is of epoch 3, the last one is 5"),
        ("metrics.ema_best.epoch", 6, "metrics.ema_best is of epoch 6, after the last epoch, 5"),
        ("metrics.best.epoch", -1, "metrics.best.epoch: Input should be greater than or equal to 0"),
        ("metrics.images_seen", 0, "metrics.images_seen: Input should be greater than or equal to 1"),
        ("metrics.train_loss", math.inf, "metrics.train_loss: Input should be a finite number"),
        ("metrics.train_loss", 10**400, "metrics.train_loss: Input should be a"),
        ("cell.schedule", [0] * 11, "cell.schedule is of 11 layers, the model has 12"),
        ("cell.schedule", [70] + [0] * 11, "cell.schedule fuses 70 tokens, the model has 65"),
        ("tokens", {"scheduled": (65,) * 12, "measured": (65,) * 12}, "tokens of 11 layers, the model has 12"),
        ("tokens.measured", [0] * 13, "tokens.measured.0: Input should be greater than or equal to 1"),
        *(
            (f"time.{part}", 0.0, f"time.{part}: Input should be greater than 0")
            for part in ("total", "train", "evaluation", "ema_evaluation", "cpu", "loop_cpu", "step_ms", "step_cpu_ms")
        ),
        ("time.total", 1.0, "time.total is 1 s, its parts are"),
        ("time.data_wait", 1e6, "time.data_wait is 1e.06 s of"),
        ("time.warmup", 1e6, "time.warmup is 1e.06 s of"),
        ("time.runs", 0, "time.runs: Input should be greater than or equal to 1"),
        ("time.step_cpu_ms", None, "time.step_cpu_ms is of a CPU, and of no other device"),
        ("time.step_ratio", 0.0, "time.step_ratio: Input should be greater than 0"),
        ("time.step_ratio", 0.9, "time.step_ratio is 0.9, the cell fuses nothing"),
        ("memory.host_peak", 0, "memory.host_peak: Input should be greater than 0"),
        ("memory.saved_activations", 0, "memory.saved_activations: Input should be greater than 0"),
        ("memory.device_peak", 1, "memory.device_peak is of a GPU, and of no other device"),
        ("cost.parameters", -1, "cost.parameters: Input should be greater than or equal to 1"),
        ("cost.forward_flops", -1, "cost.forward_flops: Input should be greater than or equal to 1"),
        ("cost.energy_joules", -1.0, "cost.energy_joules: Input should be greater than or equal to 0"),
        ("data.train", -1, "data.train: Input should be greater than or equal to 1"),
        ("data.name", "cifar100", "data.name is cifar100, the cell's data set is digits"),
        ("data.classes", 11, "data.classes is 11, digits has 10"),
        ("environment.threads", 0, "environment.threads: Input should be greater than or equal to 1"),
        ("environment.world_size", 2, "environment.world_size is 2, the cell has 1 processes"),
        ("environment.other_processes", -1, "environment.other_processes: Input should be greater"),
        ("environment.device_kind", "cuda", "environment.device_kind is cuda, the cell's device is cpu"),
        ("finished", "2025-12-31T23:59:59+00:00", "finished at 2025-12-31T23:59:59.00:00, before it started at"),
        ("finished", "yesterday", "finished: 'yesterday' is not a time in ISO 8601"),
        ("started", "2026-01-01T00:00:00", "started: '2026-01-01T00:00:00' has no time zone"),
        ("init.sha256", "f" * 64, "init: a checkpoint, and no training from scratch, has a sha256"),
        ("init.weights", "x.pt", "init: a checkpoint, and no training from scratch, has a sha256"),
        ("method", "rmeeto", "method: unknown key; known: version"),
    ],
)
def test_a_row_that_no_training_can_have_made_is_refused_in_one_line(tmp_path, where, value, message):
    tree = json.loads(ROW.model_dump_json())
    *parents, name = where.split(".")
    part = tree
    for parent in parents:
        part = part[parent]
    part[name] = value
    path = tmp_path / "row.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=message) as error:
        read_row(path)
    assert str(error.value).startswith(f"{path}: not a valid row: ")
    assert "\n" not in str(error.value)


def test_a_schedule_beyond_what_can_be_fused_is_refused():
    tree = ROW.model_dump()
    tree["id"] = "vim_tiny_mini-mine-s1"
    tree["cell"] |= {"strategy": "mine", "schedule": (40,) + (0,) * 11}
    with pytest.raises(ValidationError, match=r"asks for 40 tokens in layer 0 of .*, where 32 can be fused"):
        Row.model_validate(tree)


def test_a_row_from_before_methods_could_be_chosen_is_read():
    assert Row.model_validate(ROW.model_dump() | {"method": "famba-v"}) == ROW


@pytest.mark.parametrize("field", ["init", "arithmetic"])
def test_how_it_was_trained_belongs_into_every_row(field):
    tree = ROW.model_dump()
    del tree[field]
    with pytest.raises(ValidationError, match="Field required"):
        Row.model_validate(tree)


def test_the_judged_time_is_of_what_the_released_loop_does():
    assert ROW.time.judged_seconds == ROW.time.total - ROW.time.ema_evaluation


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokens", {"scheduled": (5, 5), "measured": (5, 4)}, "measured tokens"),
        ("id", "someone-else-s0", "holds the settings of"),
        ("watermark", "none", "watermark"),
        ("surprise", 1, "surprise"),
    ],
)
def test_an_inconsistent_row_is_refused(field, value, message):
    data = json.loads(ROW.model_dump_json())
    with pytest.raises(ValidationError, match=message):
        Row.model_validate({**data, field: value})


def test_nan_is_never_a_result():
    data = ROW.model_dump()
    data["metrics"]["train_loss"] = float("nan")
    with pytest.raises(ValidationError, match="finite"):
        Row.model_validate(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"{}", "id: Field required"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (ROW.model_dump_json().encode()[:900], "Invalid JSON: EOF"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_row(tmp_path, content, message):
    path = tmp_path / "row.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_row(path)
    assert str(path) in str(error.value)
    assert ("delete it and run again" in str(error.value)) == (content is not None)
    assert "\n" not in str(error.value)


def test_a_broken_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "row.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write("half a r")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["row.json"]


def test_an_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_epochs([], tmp_path / "file" / "epochs.csv")
