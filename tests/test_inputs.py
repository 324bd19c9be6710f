"""A short run of tests/stress/inputs.py: spoilt files of every kind are read, or refused in one line."""

import pytest

from tests.stress import inputs


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return inputs.Files(tmp_path_factory.mktemp("valid")).readers()


def test_every_reader_is_tried(readers):
    assert tuple(readers) == inputs.NAMES


@pytest.mark.filterwarnings("ignore")  # of torch, about what a spoilt file holds
@pytest.mark.parametrize("name", inputs.NAMES)
def test_a_spoilt_file_is_read_or_refused_in_one_line(name, readers, tmp_path, monkeypatch):
    monkeypatch.setenv("FAMBA_SOURCES", "")
    counts, faults, _ = inputs.stress(readers[name], tmp_path / "cases", cases=15, seed=0)
    assert not faults, faults[0]
    assert counts["refused"] > 0
