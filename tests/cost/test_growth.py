"""The growth with tokens: the fit on made-up timings, and the measurement on a toy model."""

import json
import re

import pytest

from famba.cli import main
from famba.cost.growth import fitted

TOKENS = (65, 257, 1025, 4097, 16385)


def test_a_straight_line_is_found_with_its_fixed_part():
    line = fitted(TOKENS, [2e-3 + 5e-6 * tokens for tokens in TOKENS])
    assert (line.fixed, line.per_token) == (pytest.approx(2e-3), pytest.approx(5e-6))
    assert line.deviation < 1e-9
    assert line.straight
    assert line.low < line.exponent < line.high
    assert line.exponent < 1  # it is not proportional


def test_the_deviation_is_the_largest_as_a_share_of_the_line():
    values = [5e-6 * tokens for tokens in TOKENS]
    values[2] *= 1.3
    line = fitted(TOKENS, values)
    nearest = [line.fixed + line.per_token * tokens for tokens in TOKENS]
    off = [abs(value / there - 1) for value, there in zip(values, nearest, strict=True)]
    assert line.deviation == pytest.approx(max(off))
    assert off[2] == max(off) > 0.1
    assert not line.straight


def test_a_quadratic_is_not_linear_and_has_the_exponent_two():
    line = fitted(TOKENS, [1e-9 * tokens**2 for tokens in TOKENS])
    assert not line.straight
    assert line.exponent == pytest.approx(2)
    assert line.fixed >= 0


def test_too_few_long_sequences_give_no_exponent():
    assert fitted((17, 65, 1025, 1297), (1, 2, 3, 4)).exponent is None


def test_the_command_measures_every_size_and_draws_it(tmp_path, capsys):
    out = tmp_path / "growth.json"
    toy = ["--depth", "2", "--patch-size", "2", "--patches", "16,4,36", "--scan", "chunked", "--rounds", "1"]
    words = ["bench", "--growth", str(tmp_path / "growth.svg"), *toy, "--device", "cpu", "--json", str(out)]
    assert main(words) == 0
    found = json.loads(out.read_text())
    series = {(one["what"], one["unit"], one["strategy"]): one for one in found["series"]}
    times = {("step", "s"), ("forward", "s"), ("matching", "s"), ("saved", "bytes"), ("step", "bytes")}
    assert {key[:2] for key in series} >= times - {("step", "bytes")}
    assert {key[:2] for key in series} <= times
    for one in series.values():
        assert one["tokens"] == [5, 17, 37]
        assert min(one["values"]) > 0
    saved = [series["saved", "bytes", strategy]["values"][-1] for strategy in ("baseline", "upper")]
    assert saved[1] < saved[0]
    assert "saved (bytes), upper: " in capsys.readouterr().out
    # the words of other series, which are measured, decide where a line of the note ends
    note = " ".join(re.findall(r"<text[^>]*>([^<]+)", (tmp_path / "growth.svg").read_text()))
    assert re.search(r"saved \(bytes\), baseline: linear within \d+%\. ", note)


@pytest.mark.parametrize("sizes", ["64,100", "64,100,1000", "0,4,16"])
def test_sizes_that_are_no_squares_are_one_line(tmp_path, capsys, sizes):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--growth", str(tmp_path / "growth.svg"), "--patches", sizes])
    assert stop.value.code == 2
    assert "list of three or more square numbers" in capsys.readouterr().err
