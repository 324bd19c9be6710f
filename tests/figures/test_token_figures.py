"""The figures of strategies, similarity and fused patches, from made-up records whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from famba.cli import main
from famba.figures import TOKEN_NAMES, draw, names_of
from famba.figures.captions import AUDIT, CAPTIONS
from famba.figures.draw import TOKEN_FIGURES, figure
from famba.figures.palette import STRATEGY_COLOURS
from famba.figures.patches import COLOURS, LAYERS, OVER, group_colours, shown_layers
from famba.figures.results import Results, read_results
from famba.results.row import Row, read_row
from famba.results.tokens import TokenRecord, read_tokens, write_tokens
from tests.helpers import ROOT
from tests.helpers.drawings import texts
from tests.helpers.rows import experiment, paper_experiment, write_grid

CLAIMS = ROOT / "config" / "claims.yaml"


def make_record(row: Row) -> TokenRecord:
    """Similarity that falls with the distance in the scan; layer by layer the first patches join the last group."""
    depth, patches = row.cell.architecture.depth, row.cell.architecture.tokens - 1
    apart = np.abs(np.subtract.outer(np.arange(patches), np.arange(patches)))
    layers = np.unique(np.linspace(0, depth - 1, 6).round().astype(int))
    groups = np.tile(np.arange(patches), (2, depth, 1))
    for layer, tokens in enumerate(row.tokens.measured[:-1]):
        groups[:, layer, : patches - tokens + 2] = 0  # `tokens` with the class token
    return TokenRecord(
        best_match=np.linspace(0.8, 0.95, depth) + 0.01 * row.cell.seed,
        layers=layers,
        similarity=np.stack([1 - apart / patches * (1 - layer / depth / 2) for layer in layers]).astype(np.float32),
        images=np.full((2, 16, 16, 3), (255, 0, 0), np.uint8),
        groups=groups,
        seen=64,
    )


def write_records(paths: list[Path]) -> None:
    for path in paths:
        write_tokens(make_record(read_row(path)), path.with_name("tokens.npz"))


def read(folder: Path, grid) -> tuple[Results, dict[Path, TokenRecord]]:
    paths = write_grid(folder, grid)
    write_records(paths)
    results = read_results(paths, CLAIMS)
    return results, {path: read_tokens(path.with_name("tokens.npz"), row) for path, row in results.rows.items()}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return read(tmp_path_factory.mktemp("smoke"), experiment())


@pytest.fixture(scope="module")
def drawn(smoke):
    """The figures of tokens, by name."""
    return {name: figure(name, *smoke) for name in TOKEN_NAMES}


def test_the_names_are_those_that_the_pipeline_expects():
    assert tuple(TOKEN_FIGURES) == TOKEN_NAMES
    assert {*names_of(["start_2", "start_3", "tokens_1", "tokens_2"])} == {*CAPTIONS}
    for prefix, captions in (("", CAPTIONS), ("audit_", AUDIT)):
        for name in captions:  # one file each, for Snakemake wants a file; the words are those of captions.py
            text = (ROOT / "rules" / "captions" / f"{prefix}{name}.rst").read_text()
            assert text == f"{{{{ snakemake.params.captions.{name} }}}}\n"


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_smoke_figures_are_watermarked_and_nothing_is_clipped(drawn, name):
    made = drawn[name]
    (mark,) = [text for text in made.texts if text.get_gid() == "watermark-smoke"]
    assert mark.get_zorder() < 0
    shown = texts(made)
    assert any("SMOKE: not evidence" in text.replace("\n", " ") for text in shown)
    assert all(any(model in text for text in shown) for model in ("vim_tiny_mini", "vim_small_mini"))
    needed = made.get_tightbbox()
    width, height = made.get_size_inches()
    assert (needed.x0, needed.y0) >= (0, 0)
    assert needed.x1 <= width
    assert needed.y1 <= height


def test_strategies_that_models_share_make_one_panel(tmp_path):
    made = figure("strategies", read_results(write_grid(tmp_path, paper_experiment(seeds=[0])), CLAIMS))
    (axes,) = made.axes
    assert axes.get_title(loc="left") == "Vim-Ti, Vim-S: 197 tokens"
    numbers = [text.get_text() for text in axes.texts]
    assert [numbers.count(r) for r in ("7", "14", "9")] == [24, 12, 38]  # lower and upper have 19 layers each
    assert {"197  (100.0 %)", "29  (55.6 %)", "29  (57.4 %)", "26  (45.7 %)", "26  (63.8 %)"} <= set(numbers)


def test_strategies_are_drawn_from_the_schedule_even_where_it_asks_for_too_much(tmp_path):
    shallow = {"vim_two": {"embed_dim": 8, "depth": 2, "img_size": 32, "patch_size": 4}}
    grid = experiment(models=shallow, strategies=["baseline", "interleaved"], seeds=[0])
    assert grid.cells()[1].schedule == (0, 55)  # the paper's share of 64 patches, of which half can be fused
    made = figure("strategies", read_results(write_grid(tmp_path, grid), CLAIMS))
    axes = made.axes[0]
    fused = [text.get_text() for text in axes.texts if 0.5 < text.get_position()[1] < 1.5]
    assert fused == ["32", "interleaved", "33  (75.4 %)"]
    words = [text.get_text() for text in axes.texts if text.get_text().isalpha()]
    assert words == ["baseline", "interleaved"]
    bars = [bar for bar in axes.patches if bar.get_y() > 1 and bar.get_edgecolor()[3] == 0]
    heights = [-bar.get_height() / 0.62 * 65 for bar in bars]
    assert heights == pytest.approx([65, 33])


def test_maps_are_those_of_the_record_and_of_the_model_that_fuses_none(smoke, drawn):
    results, records = smoke
    maps = [axes.images[0].get_array() for axes in drawn["similarity"].axes if axes.images]
    expected = [
        values
        for model in results.models
        for path, row in results.rows.items()
        if row.id == f"{model}-baseline-s0"
        for values in records[path].similarity
    ]
    assert len(maps) == len(expected) == 12
    assert all(np.array_equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert {"layer 0", "layer 11", "cosine similarity", "patch"} <= texts(drawn["similarity"])


def test_best_match_is_the_mean_over_seeds_with_its_interval(smoke, drawn):
    axes = drawn["best_match"].axes[0]
    (line,) = [line for line in axes.get_lines() if len(line.get_xdata()) == 12]
    assert line.get_ydata() == pytest.approx(np.linspace(0.8, 0.95, 12) + 0.01)  # seeds 0, 1, 2
    assert line.get_color() == STRATEGY_COLOURS["baseline"]
    half = 4.302653 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.81 - half, abs=1e-5)
    assert band[:, 1].max() == pytest.approx(0.96 + half, abs=1e-5)
    assert axes.get_ylim()[1] == 1


def test_patches_have_a_row_per_strategy_that_fuses(smoke, drawn):
    made = drawn["fused_patches"]
    labels = [axes.get_ylabel() for axes in made.axes if axes.get_ylabel()]
    assert labels == ["all", "interleaved", "lower", "upper"] * 2
    counts = [axes.get_xlabel() for axes in made.axes]
    results, _ = smoke
    upper = next(row for row in results.rows.values() if row.id == "vim_small_mini-upper-s0")
    expected = [65, *(upper.tokens.measured[layer] for layer in shown_layers(12))]
    assert counts[-(LAYERS + 1) :] == [str(count) for count in expected]


def test_a_patch_keeps_the_colour_of_the_group_that_it_ends_in():
    groups = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 2, 3, 3, 5], [0, 0, 0, 3, 3, 5]])
    colours = group_colours(groups)
    assert colours.shape == (3, 6, 4)
    assert (colours[..., 3] > 0).tolist() == [
        [False] * 6,
        [True, True, False, True, True, False],
        [True, True, True, True, True, False],
    ]
    assert set(colours[..., 3].ravel()) == {0, OVER}
    first, second = colours[2, 0, :3], colours[2, 3, :3]
    assert not np.array_equal(first, second)
    assert (colours[:, :3, :3] == first).all()
    assert (colours[:, 3:5, :3] == second).all()


def test_more_groups_than_colours_are_grey():
    pairs = np.repeat(np.arange(0, 40, 2), 2)[None]
    colours = {tuple(colour) for colour in group_colours(pairs)[0, :, :3].round(4)}
    assert len(colours) == len(COLOURS) + 1


@pytest.mark.parametrize(("depth", "layers"), [(1, [0]), (4, [0, 1, 2, 3]), (24, [0, 3, 7, 10, 13, 16, 20, 23])])
def test_shown_layers(depth, layers):
    assert shown_layers(depth) == layers


def test_a_grid_without_fusion_or_without_baseline_is_drawn(tmp_path):
    only = figure("fused_patches", *read(tmp_path / "a", experiment(strategies=["baseline"], seeds=[0])))
    assert "No strategy of this experiment fuses tokens." in texts(only)
    fused = read(tmp_path / "b", experiment(strategies=["upper"], seeds=[0]))
    assert "upper" in texts(figure("best_match", *fused))
    assert any("upper, seed 0" in text.replace("\n", " ") for text in texts(figure("similarity", *fused)))


def test_overlapping_patches_are_drawn_where_they_lie(tmp_path):
    grid = experiment(models={"m": {"embed_dim": 8, "depth": 4, "img_size": 32, "patch_size": 8, "stride": 4}})
    made = figure("fused_patches", *read(tmp_path, grid))
    image, patches = made.axes[1].images
    assert image.get_extent() == [-1, 7, 7, -1]  # in strides: a patch of two around each of the 7
    assert patches.get_array().shape == (7, 7, 4)


@pytest.fixture
def one_of_rows(monkeypatch):
    """Of the figures that need rows alone, draw one: the others are tested elsewhere."""
    monkeypatch.setattr(draw, "FIGURES", {"strategies": draw.FIGURES["strategies"]})


@pytest.mark.usefixtures("one_of_rows")
def test_the_command_draws_the_same_again(tmp_path, capsys):
    rows = write_grid(tmp_path, experiment(strategies=["baseline", "upper"], seeds=[0]))
    write_records(rows)
    for out in ("a", "b"):
        assert main(["figures", "--out", str(tmp_path / out), "--claims", str(CLAIMS), *map(str, rows)]) == 0
    assert "not drawn" not in capsys.readouterr().out
    for name in ("strategies", *TOKEN_NAMES):
        svg = (tmp_path / "a" / f"{name}.svg").read_bytes()
        assert svg == (tmp_path / "b" / f"{name}.svg").read_bytes()
        assert f'id="{name}-watermark-smoke"'.encode() in svg


@pytest.mark.usefixtures("one_of_rows")
def test_rows_without_records_are_drawn_as_far_as_they_go(tmp_path, capsys):
    rows = write_grid(tmp_path, experiment(strategies=["baseline", "upper"], seeds=[0]))
    write_records(rows[:-1])
    command = ["figures", "--out", str(tmp_path / "f"), "--claims", str(CLAIMS), *map(str, rows)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"not drawn: similarity, best_match, fused_patches; no tokens.npz beside 1 row, such as {rows[-1]}" in said
    assert {path.stem for path in (tmp_path / "f").iterdir()} == {"strategies"}
    rows[-1].with_name("tokens.npz").write_text("no archive")
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
