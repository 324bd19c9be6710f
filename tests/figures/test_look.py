"""`famba figures` for a paper: one figure, its width, its format; and a style file with other names and colours."""

import json
import re
import struct
from pathlib import Path

import pytest

from famba.cli import main
from famba.figures.draw import FIGURES, figure
from famba.figures.look import read_look
from famba.figures.results import read_results
from tests.helpers.drawings import texts
from tests.helpers.pages import CLAIMS, Page, report
from tests.helpers.rows import experiment, write_grid

OURS = {
    "strategies": {"upper": {"label": "Upper (ours)", "colour": "#AA0044", "marker": "*"}},
    "models": {"vim_tiny_mini": {"label": "Vim-Ti, 12 layers"}},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Path]:
    grid = experiment(seeds=[0], strategies=["baseline", "upper"])
    return write_grid(tmp_path_factory.mktemp("rows"), grid)


def figures(out: Path, rows: list[Path], *options: str) -> int:
    return main(["figures", "--out", str(out), "--claims", str(CLAIMS), *options, *map(str, rows)])


def style(folder: Path, **changes: object) -> Path:
    path = folder / "style.yaml"  # JSON is YAML
    path.write_text(json.dumps(OURS | changes))
    return path


def test_one_figure_in_the_width_and_format_of_a_paper(tmp_path, rows, capsys):
    wide = ["--only", "top1", "--width", "7", "--format", "pdf", "--format", "png"]
    assert figures(tmp_path, rows, *wide) == 0
    assert capsys.readouterr().out == f"{tmp_path}: top1 (.pdf, .png)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["top1.pdf", "top1.png"]
    pixels, _ = struct.unpack(">II", (tmp_path / "top1.png").read_bytes()[16:24])
    assert pixels == 7 * 200
    pdf = (tmp_path / "top1.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ 0 0 504 ", pdf)  # in points
    assert b"CreationDate" not in pdf
    assert figures(tmp_path, rows, *wide) == 0
    assert (tmp_path / "top1.pdf").read_bytes() == pdf


def test_a_style_file_names_and_colours(tmp_path, rows):
    styled = read_results(rows, CLAIMS, read_look(style(tmp_path)))
    assert styled.colours["upper"] == "#AA0044"
    assert styled.markers["upper"] == "*"
    assert styled.colours["baseline"] == read_results(rows, CLAIMS).colours["baseline"]
    for name in FIGURES:
        shown = texts(figure(name, styled))
        assert not {"upper", "vim_tiny_mini"} & set(shown)
        assert any("Vim-Ti, 12 layers" in text for text in shown)
        if name not in ("curves", "tokens"):
            assert "Upper (ours)" in shown or any("Upper (ours)" in text for text in shown)


def test_a_page_has_counterparts_of_a_style_files_colours_on_a_dark_screen(tmp_path, rows):
    given = ["--only", "top1", "--style", str(style(tmp_path))]
    assert figures(tmp_path / "figures", rows, *given) == 0
    assert report(tmp_path, rows) == 0
    page = (tmp_path / "report.html").read_text()
    assert '[fill="#aa0044"] { fill: #c85985; }' in page  # 35 % white
    assert "Upper (ours)" in Page(page).text


def test_a_name_that_no_row_has_is_told(tmp_path, rows, capsys):
    misspelt = style(tmp_path, strategies={"uper": {"label": "x"}})
    assert figures(tmp_path, rows, "--only", "top1", "--style", str(misspelt)) == 0
    assert f"{misspelt}: no row is of the strategy 'uper'; did you mean 'upper'?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "tpo1"], "--only tpo1: no such figure of these rows; did you mean 'top1'?"),
        (["--only", "similarity"], "--only similarity: no tokens.npz beside 4 rows, such as "),
        (["--style", "absent.yaml"], "absent.yaml: cannot read the style file"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, rows, capsys, options, says):
    assert figures(tmp_path / "out", rows, *options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"strategies": {"upper": {"color": "#AA0044"}}},
            "strategies.upper.color: unknown key; did you mean 'colour'?",
        ),
        ({"strategies": {"upper": {"colour": "red"}}}, "strategies.upper.colour: 'red' is no colour: # and six hex"),
        ({"strategies": {"upper": {"label": "$x"}}}, "strategies.upper.label: a label is one line of plain text"),
        ({"strategies": {"upper": {"marker": "star"}}}, "strategies.upper.marker: Input should be 'o', 's'"),
        ({"models": {"a": {}}}, "models.a.label: Field required"),
    ],
)
def test_a_wrong_style_file_is_one_line(tmp_path, rows, capsys, changes, says):
    assert figures(tmp_path / "out", rows, "--style", str(style(tmp_path, **changes))) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'style.yaml'}: {says}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("width", ["1", "nan", "inf", "wide"])
def test_a_width_that_is_none_is_refused(tmp_path, rows, width, capsys):
    with pytest.raises(SystemExit) as stop:
        figures(tmp_path, rows, "--width", width)
    assert stop.value.code == 2
    assert "width in inches (2 to 20)" in capsys.readouterr().err
