"""The figures of results: every name and point where it should be, smoke watermarked, bad input in one line."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from famba.claims import ledger
from famba.cli import main
from famba.errors import InputError
from famba.figures import NAMES, style, svg
from famba.figures.captions import CAPTIONS
from famba.figures.draw import FIGURES, figure
from famba.figures.palette import STRATEGY_COLOURS, colours, markers
from famba.figures.results import Results, read_results
from famba.figures.style import PAPER
from famba.figures.tradeoff import ACCURACY, pareto_front
from famba.results.epochs import EPOCH_FIELDS, read_epochs
from famba.results.row import read_row, write_row
from tests.helpers import ROOT
from tests.helpers.drawings import texts
from tests.helpers.rows import experiment, paper_experiment, thresholded, with_top1, write_grid

CLAIMS = ROOT / "config" / "claims.yaml"
TINY = {"vim_tiny": {"embed_dim": 192}}


def results(folder: Path, grid, **of_row) -> Results:
    return read_results(write_grid(folder, grid, **of_row), CLAIMS)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Results:
    return results(tmp_path_factory.mktemp("smoke"), experiment())


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Results:
    return results(tmp_path_factory.mktemp("paper"), paper_experiment())


DRAWN: dict[tuple[str, int], Figure] = {}


def drawn(name: str, source: Results) -> Figure:
    """The figure of a fixture's results, drawn once for all tests that only look at it."""
    key = name, id(source)
    if key not in DRAWN:
        DRAWN[key] = figure(name, source)
    return DRAWN[key]


def drawn_points(made: Figure, marker: str) -> list[tuple[float, float]]:
    """Data points drawn with a marker, in any panel."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for axes in made.axes for line in axes.get_lines() if line.get_marker() == marker
    ]  # fmt: skip


def bars(axes: Axes) -> list[Rectangle]:
    """The bars of a panel, without the strips that tell their numbers."""
    return [bar for container in axes.containers for bar in container]


def test_the_names_are_those_that_the_pipeline_expects():
    assert tuple(FIGURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_names_its_strategies_and_models(smoke, name):
    found = texts(drawn(name, smoke))
    assert {*smoke.strategies} <= found
    assert all(any(model in text for text in found) for model in smoke.models)  # one title may name several


@pytest.mark.parametrize("name", NAMES)
def test_smoke_figures_and_no_others_are_watermarked(smoke, paper, name):
    (mark,) = [text for text in drawn(name, smoke).texts if text.get_gid() == "watermark-smoke"]
    assert mark.get_text() == "SMOKE"
    assert mark.get_zorder() < 0  # behind the axes, whose background is transparent
    assert not [text for text in drawn(name, paper).texts if "SMOKE" in text.get_text()]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped_at_the_edge(smoke, paper, name):
    for source in (smoke, paper):
        made = drawn(name, source)
        made.draw_without_rendering()
        needed = made.get_tightbbox()  # inches, of all that is drawn
        width, height = made.get_size_inches()
        assert needed.x0 >= 0
        assert needed.y0 >= 0
        assert needed.x1 <= width
        assert needed.y1 <= height


def test_identical_rows_give_identical_files(tmp_path):
    grid = experiment(models={"m": {"embed_dim": 32, "depth": 12, "img_size": 32, "patch_size": 4}})
    rows = write_grid(tmp_path, grid)
    for out, order in (("a", rows), ("b", rows[::-1])):
        args = ["figures", "--out", str(tmp_path / out), "--claims", str(CLAIMS), *map(str, order)]
        assert main(args) == 0
    for name in NAMES:
        svg = (tmp_path / "a" / f"{name}.svg").read_bytes()
        assert svg == (tmp_path / "b" / f"{name}.svg").read_bytes()
        assert b"<dc:date>" not in svg
        assert f'id="{name}-watermark-smoke"'.encode() in svg
        for strategy in grid.strategies:  # text is text
            assert f">{strategy}</text>".encode() in svg
        assert imread(tmp_path / "a" / f"{name}.png").shape[1] == 680  # a column at 200 dpi


@pytest.mark.parametrize("name", ["top1", "tokens", "accuracy_time"])
def test_a_file_can_stand_in_a_page_beside_others(tmp_path, smoke, name):
    """Its ids are its own and all that is referred to is there; no `style`, which a page's policy refuses."""
    with style.theme():
        style.save(figure(name, smoke), tmp_path, name, CAPTIONS[name])
    root = ET.parse(tmp_path / f"{name}.svg").getroot()
    elements = list(root.iter())
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert len(ids) == len(set(ids)) > 2
    assert all(id_ == name or id_.startswith(f"{name}-") for id_ in ids)
    text = (tmp_path / f"{name}.svg").read_text()
    assert set(re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', text)) <= {*ids}
    assert not any("style" in element.attrib or element.tag.endswith("}style") for element in elements)
    assert root.attrib["aria-label"] == CAPTIONS[name].title
    (about,) = [element for element in elements if element.get("id") == root.attrib["aria-describedby"]]
    assert about.text == CAPTIONS[name].text
    marks = [mark for mark in elements if mark.get("class") == "mark"]
    titles = [mark.findtext(f"{{{svg.SVG}}}title") for mark in marks]
    assert len(titles) == len(smoke.models) * (12 if name == "tokens" else len(smoke.strategies))
    assert all(titles)
    for mark in marks:  # the page paints the path of a mark in focus, and its style does not reach into a <use>
        assert [child.tag.removeprefix(f"{{{svg.SVG}}}") for child in mark] == ["title", "path"]
        assert mark[1].get("fill") == "none"
        assert "stroke" not in mark[1].attrib


def test_an_image_is_as_large_as_its_frame(tmp_path):
    """Three maps of 196 x 196 patches in the width of a column, as `similarity` draws them."""
    with style.theme():
        made = style.new_figure(2.0)
        for axes in made.subplots(1, 3):
            axes.imshow(np.eye(196), interpolation="none")
        style.save(made, tmp_path, "similarity", CAPTIONS["similarity"])
    root = ET.parse(tmp_path / "similarity.svg").getroot()
    frames = [clip[0] for clip in root.iter(f"{{{svg.SVG}}}clipPath")]
    images = list(root.iter(f"{{{svg.SVG}}}image"))
    assert len(images) == len(frames) == 3
    for image, frame in zip(images, frames, strict=True):
        across, *_ = map(float, re.findall(r"-?[\d.]+", image.attrib["transform"]))
        assert across * float(image.attrib["width"]) == pytest.approx(float(frame.attrib["width"]), abs=0.02)


def test_every_reference_to_an_id_is_renamed(tmp_path):
    """A hatch is referred to by `fill`, a clip by `clip-path`."""
    with style.theme():
        made = style.new_figure(2.0)
        made.add_subplot().bar([0, 1], [1, 2], hatch="//")
        style.save(made, tmp_path, "top1", CAPTIONS["top1"])
    text = (tmp_path / "top1.svg").read_text()
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    assert any(f'fill="url(#{id_})"' in text for id_ in used)
    assert used <= set(re.findall(r' id="([^"]+)"', text))


def test_a_control_character_in_a_devices_name_is_escaped(tmp_path):
    odd = results(tmp_path, experiment(seeds=[0]), device="a\x07b\nc")
    assert any(r"a\x07b c" in text.replace("\n", "") for text in texts(figure("tokens", odd)))
    with style.theme():
        style.save(figure("tokens", odd), tmp_path, "tokens", CAPTIONS["tokens"])
    assert r"a\x07b c" in "".join(ET.parse(tmp_path / "tokens.svg").getroot().itertext())


def test_published_points_stand_where_the_paper_has_them(paper):
    made = drawn("top1", paper)
    place = paper.strategies.index
    printed = [row for row in ledger.published_rows(CLAIMS) if row.table == 1]
    assert sorted(drawn_points(made, "*")) == sorted((row.top1, place(row.strategy)) for row in printed)
    assert {PAPER, "top-1, best epoch on test (%)"} <= texts(made)
    time = drawn("time", paper)
    hours = sorted((row.time_s / 3600, place(row.strategy)) for row in printed)
    assert sorted(drawn_points(time, "*")) == [pytest.approx(point) for point in hours]
    assert "paper (1 seed, whole loop, A100)" in texts(time)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "fashion-mnist"},
        {"protocol": "smoke", "device": "cpu"},
        {"models": {"vim_tiny": {"embed_dim": 96}}},
    ],
    ids=["data", "protocol", "model"],
)
def test_published_points_stand_beside_nothing_else(tmp_path, changes):
    other = results(tmp_path, paper_experiment(**{"models": TINY, "seeds": [0], **changes}))
    made = figure("top1", other)
    assert drawn_points(made, "*") == []
    assert PAPER not in texts(made)
    assert "top-1, last epoch (%)" in texts(made)


def test_tokens_shows_every_layer(smoke):
    made = drawn("tokens", smoke)
    rows = [row for row in smoke.rows.values() if row.cell.model == smoke.models[0] and row.cell.seed == 0]
    lines = [tuple(line.get_ydata()) for line in made.axes[0].get_lines()]
    for row in rows:
        assert lines.count(row.tokens.measured[:-1]) == 2  # once as the schedule's line, once as markers


def test_bars_are_not_cut(paper):
    made = drawn("time", paper)
    for axes in made.axes:
        left, right = axes.get_xlim()
        assert left == 0
        assert all(bar.get_width() <= right for bar in bars(axes))


def test_own_strategies_get_their_own_colours(tmp_path):
    grid = experiment(strategies=["baseline", "upper", "late"], schedules={"late": (0,) * 11 + (20,)}, seeds=[0])
    own = results(tmp_path, grid)
    assert own.strategies == ["baseline", "upper", "late"]
    for name in NAMES:
        assert "late" in texts(figure(name, own))
    palette = colours(own.strategies)
    assert palette["upper"] == STRATEGY_COLOURS["upper"]
    assert palette["late"] not in STRATEGY_COLOURS.values()
    assert len(set(markers(own.strategies).values())) == 3


def test_what_a_threshold_left_is_drawn_and_not_its_schedule(tmp_path):
    pruned = {"pruned": {"like": "upper", "settings": {"threshold": 0.9}}}
    grid = experiment(seeds=[0], strategies=["baseline", "upper", "pruned"], schedules=pruned)
    paths = write_grid(tmp_path, grid)
    for path in paths:
        if "pruned" in path.parent.name:
            write_row(thresholded(read_row(path)), path)
    varied = read_results(paths, CLAIMS)
    row = next(row for row in varied.rows.values() if row.tokens.range)
    (*seen, last), tokens = row.tokens.measured, row.cell.architecture.tokens
    found = texts(figure("strategies", varied))
    assert f"{last:.1f}  ({100 * sum(seen) / len(seen) / tokens:.1f} %)" in found
    assert f"{row.tokens.scheduled[-1]}  (" in " ".join(found)  # of upper
    for name in ("strategies", "tokens"):
        shown = " ".join(" ".join(texts(figure(name, varied))).split())
        assert "A threshold decides in pruned: means over the test images, and the schedule is a bound." in shown
        with style.theme():
            style.save(figure(name, varied), tmp_path, name, CAPTIONS[name], formats=["svg"])
        assert not re.search(r"\d\.\d{3,} tokens|: \d+\.\d{2,}\n", (tmp_path / f"{name}.svg").read_text())
    assert "fused at most, layer" in (tmp_path / "strategies.svg").read_text()


def test_equal_accuracies_are_drawn_with_the_interval_of_an_image(tmp_path):
    paths = write_grid(tmp_path, experiment(strategies=["baseline", "upper"]))
    for path in paths:
        write_row(with_top1(read_row(path), 90.0), path)
    equal = read_results(paths, CLAIMS)
    half = 4.302653 * 100 / 360 / 12**0.5 / 3**0.5
    assert f"± {half:.3f}" in " ".join(equal.tooltip(equal.models[0], "upper", ACCURACY))
    for name in ("top1", "accuracy_time"):
        lines = [line.get_xydata() for axes in figure(name, equal).axes for line in axes.get_lines()]
        assert any(np.ptp(line, axis=0).max() == pytest.approx(2 * half, rel=1e-5) for line in lines), name


def test_one_seed_says_that_there_is_no_interval(tmp_path):
    one = results(tmp_path, experiment(seeds=[0]))
    for name in ("top1", "time", "memory", "accuracy_time", "accuracy_memory"):
        shown = " ".join(texts(figure(name, one))).replace("\n", " ")
        assert "One seed: no interval." in shown
        assert "95 % interval" not in shown
        assert "Student" not in shown


def test_a_grid_without_baseline_shows_what_it_can(tmp_path):
    upper = results(tmp_path, experiment(strategies=["upper"]))
    ratios = [axes for axes in figure("time", upper).axes if axes.get_xlabel().endswith("baseline's")]
    assert [len(bars(axes)) for axes in ratios] == [0] * len(upper.models)  # no ratio without its baseline
    for name in NAMES:
        assert "upper" in texts(figure(name, upper))


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 1), (2, 2), (3, 3)], {0, 1, 2}),
        ([(1, 3), (2, 2), (3, 1)], {0}),
        ([(1, 1), (1, 2), (2, 2)], {1}),
        ([(1, 1), (1, 1)], {0, 1}),
        ([(3, 5), (1, 1), (2, 0)], {0, 1}),
    ],
)
def test_pareto_front(points, front):
    assert set(pareto_front(points)) == front


def _epochs(tmp_path: Path, text: str | None) -> Path:
    path = tmp_path / "epochs.csv"
    if text is not None:
        path.write_text(text)
    return path


HEADER = ",".join(EPOCH_FIELDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read"),
        ("", "not a CSV"),
        ("a,b\n1,2\n", "expected the columns"),
        (f"{HEADER}\n0{',1' * 10}\n", "epochs 0 to 1"),
        (f"{HEADER}\n0{',1' * 10}\n1,1,nan{',1' * 8}\n", "train_loss of epoch 1 is nan"),
        (f"{HEADER}\n0{',1' * 10}\n1,1,1,oops{',1' * 7}\n", "top1 of epoch 1 is oops"),
    ],
)
def test_bad_epochs_are_one_line(tmp_path, text, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        read_epochs(_epochs(tmp_path, text), 2)
    assert str(tmp_path / "epochs.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_epochs_end_the_command(tmp_path, capsys):
    rows = write_grid(tmp_path, experiment(seeds=[0]))
    rows[0].with_name("epochs.csv").unlink()
    assert main(["figures", "--out", str(tmp_path / "f"), "--claims", str(CLAIMS), *map(str, rows)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("text", ["", "published: 3", "published: [{id: a}]", "published: [", "- 1"])
def test_bad_claims_are_one_line(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"claims\.yaml") as caught:
        ledger.load(path)
    assert "\n" not in str(caught.value)
