"""Result rows: what a row refuses to be, and how it reaches the disk."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError
from rows import experiment, make_row

from famba.errors import InputError
from famba.record import Row, atomic_file, read_row, write_epochs, write_row

ROW = make_row(experiment().cells()[1])
SCHEMA = json.loads((Path(__file__).parent.parent / "config" / "schema" / "row.json").read_text())


def test_a_row_survives_the_disk_and_meets_the_published_schema(tmp_path):
    row = ROW
    write_row(row, tmp_path / "cell" / "row.json")
    assert read_row(tmp_path / "cell" / "row.json") == row
    jsonschema.validate(json.loads((tmp_path / "cell" / "row.json").read_text()), SCHEMA)
    assert os.listdir(tmp_path / "cell") == ["row.json"]


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
