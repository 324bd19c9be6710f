"""One model under several recipes: what pools, what is judged by itself, and the difference between two recipes."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from scipy import stats

from famba.claims import ledger
from famba.claims.noise import noise_floor
from famba.claims.paper_tables import comparable, paper_tables
from famba.claims.verdicts import judge
from famba.cli import main
from famba.config import ARCHITECTURES, Experiment
from famba.config.protocol import MODELS, deviation
from famba.cost.plan import plan
from famba.errors import InputError
from famba.figures.results import read_results
from famba.results.epochs import write_epochs
from famba.results.recipes import by_recipe, differences
from famba.results.row import Row, write_row
from famba.results.summary import described, read_rows, summarise
from tests.helpers import ROOT
from tests.helpers.pipeline import planned
from tests.helpers.rows import changed, epochs_of, make_row, write_grid

CLAIMS = ROOT / "config" / "recipe-ablation-claims.yaml"
LEDGER = ledger.load(CLAIMS)
PRESETS = {"vim_tiny_scripts": "paper-scripts", "vim_tiny_text": "paper-text"}
# top-1 of the best epoch, seed by seed; the last epoch's is 0.3 lower, top-5 is the same in all
TOP1 = {
    ("vim_tiny_scripts", "baseline"): (70.0, 70.2, 70.3),
    ("vim_tiny_scripts", "upper"): (70.4, 70.5, 70.9),
    ("vim_tiny_text", "baseline"): (60.1, 60.2, 60.4),
    ("vim_tiny_text", "upper"): (60.0, 60.4, 60.5),
}


def ablation(**changes) -> Experiment:
    return Experiment.from_config(Experiment.read(ROOT / "config" / "recipe-ablation.yaml") | changes)


def mini(**changes) -> Experiment:
    smoke = Experiment.load(ROOT / "config" / "smoke-recipe-ablation.yaml").model_dump()
    return Experiment.from_config(smoke | {"seeds": [0, 1, 2]} | changes)


def row_of(cell) -> Row:
    """A row with the top-1 of TOP1."""
    row, top1 = make_row(cell), TOP1[cell.model, cell.strategy][cell.seed]
    best, last = (
        accuracy.model_copy(update={"top1": value, "top5": 90.6})
        for accuracy, value in ((row.metrics.best, top1), (row.metrics.last, top1 - 0.3))
    )
    metrics = row.metrics.model_copy(update={"best": best, "last": last, "ema_best": best, "ema_last": last})
    return row.model_copy(update={"metrics": metrics})


def write(folder: Path, grid: Experiment) -> list[Path]:
    paths = []
    for cell in grid.cells():
        paths.append(folder / "cells" / cell.id / "row.json")
        write_row(row_of(cell), paths[-1])
        write_epochs(epochs_of(row_of(cell)), paths[-1].with_name("epochs.csv"))
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    return write(tmp_path_factory.mktemp("ablation"), ablation())


@pytest.fixture(scope="module")
def rows(paths) -> dict[Path, Row]:
    return read_rows(paths)


def test_the_ablation_trains_vim_ti_under_both_presets():
    grid = ablation()
    assert grid.protocol == "paper"
    assert {cell.model: cell.recipe.preset for cell in grid.cells()} == PRESETS
    assert {cell.architecture for cell in grid.cells()} == {MODELS["vim_tiny"]}
    assert [cell.id for cell in grid.cells()] == [
        f"{model}-{strategy}-s{seed}" for model in PRESETS for strategy in ("baseline", "upper") for seed in (0, 1, 2)
    ]
    assert all(deviation(cell) is None for cell in grid.cells())
    assert Experiment.model_validate_json(grid.model_dump_json()) == grid
    assert grid.cell_by_id("vim_tiny_text-upper-s2").recipe.peak_lr == 1e-3


def test_its_smoke_version_differs_as_the_presets_do():
    scripts, text = mini().recipes
    assert text.global_batch * 4 == scripts.global_batch
    assert text.peak_lr == pytest.approx(2 * scripts.peak_lr)
    assert (text.rand_augment, text.cutmix) == (None, 0)
    assert (scripts.rand_augment, scripts.cutmix) == ("rand-m9-mstd0.5-inc1", 1)
    same = {"global_batch", "lr", "rand_augment", "cutmix"}
    assert text.model_dump(exclude=same) == scripts.model_dump(exclude=same)


def test_the_pipeline_plans_a_cell_for_each_recipe(checkout):
    assert planned(checkout, "--configfile", "config/smoke-recipe-ablation.yaml")["train"] == 8


def test_a_plan_has_each_recipes_rates_and_times():
    predictions, notes = plan(ablation(seeds=[0]), "a100")
    assert any(note.startswith("vim_tiny_text: learning rate: 1e-06 first, 0.000999 at most") for note in notes)
    step = {p.cell: p.step_s for p in predictions}
    ratio = step["vim_tiny_scripts-baseline-s0"] / step["vim_tiny_text-baseline-s0"]
    assert ratio == pytest.approx(4, rel=0.02)  # batches of 512 and 128


def test_one_training_by_two_names_is_refused():
    twice = {name: {"embed_dim": 192, "recipe": "paper-text"} for name in ("one", "other")}
    with pytest.raises(InputError, match="models: one and other are the same architecture under the same recipe"):
        ablation(models=twice)
    ablation(models={**twice, "other": {"embed_dim": 192, "recipe": {"preset": "paper-text", "epochs": 30}}},
             protocol="custom")  # fmt: skip


def test_a_recipe_that_only_the_speed_tells_apart_is_the_same():
    slower = {"preset": "paper-text", "micro_batch": 32, "workers": 2}
    with pytest.raises(InputError, match="the same architecture under the same recipe"):
        ablation(models={"a": {"embed_dim": 192, "recipe": "paper-text"}, "b": {"embed_dim": 192, "recipe": slower}})


@pytest.mark.parametrize(
    ("recipe", "what"),
    [("paper-scripts", r"recipe\.global_batch of vim_tiny_text \(128 and 512\)"),
     ({"preset": "paper-text", "mixup": 0.4}, r"recipe\.mixup of vim_tiny_text \(0\.8 and 0\.4\)")],
)  # fmt: skip
def test_a_name_does_not_pool_two_recipes(tmp_path, recipe, what):
    text = {"vim_tiny_text": {"embed_dim": 192, "recipe": "paper-text"}}
    other = {"vim_tiny_text": {"embed_dim": 192, "recipe": recipe}}
    paths = write(tmp_path / "text", ablation(models=text, seeds=[0]))
    paths += write(tmp_path / "other", ablation(models=other, seeds=[1], protocol="custom"))
    for path in paths:
        changed(path, cell={"protocol": "paper"})
    with pytest.raises(InputError, match=what):
        read_rows(paths)


def test_a_second_name_of_one_training_is_not_judged_beside_it(tmp_path):
    paths = write(tmp_path, ablation(seeds=[0]))
    changed(paths[-1], cell={"recipe": ablation().recipe_of("vim_tiny_scripts").model_dump()})
    with pytest.raises(InputError, match="vim_tiny_text is vim_tiny_scripts by another name, under one recipe"):
        read_rows(paths)


def test_each_recipe_has_its_own_verdicts(rows):
    judged = judge(LEDGER, list(rows.values()), noise_floor(list(rows.values())))
    found = {(v.id, v.recipe): v for v in judged.verdicts}
    assert Counter(recipe for _, recipe in found) == {"paper-scripts": 5, "paper-text": 5}
    assert found["baseline-top1", "paper-scripts"].verdict == "reproduced"
    assert found["baseline-top1", "paper-text"].verdict == "not reproduced"
    for (model, strategy), values in TOP1.items():
        verdict = found[f"{strategy}-top1", PRESETS[model]]
        assert (verdict.n, verdict.parts[0].model) == (3, model)
        assert verdict.mean == pytest.approx(sum(values) / 3)
    # 0.43 and 0.07 points; the paper has 0.4
    assert found["upper-against-baseline", "paper-scripts"].mean == pytest.approx(1.3 / 3)
    assert found["upper-against-baseline", "paper-text"].mean == pytest.approx(0.2 / 3)


def test_a_claim_is_judged_on_the_recipes_that_trained_its_models(rows):
    """One about a model that is not there is told once."""
    paper = ledger.load(ROOT / "config" / "claims.yaml")
    found = Counter(v.id for v in judge(paper, list(rows.values()), []).verdicts)
    assert found["table1-vim_tiny-upper-top1"] == 2
    assert found["table1-vim_small-upper-top1"] == 1


def test_a_custom_recipe_is_no_evidence_and_does_not_spoil_the_other(rows):
    custom = ablation().recipes[1].model_copy(update={"epochs": 100, "preset": "custom"})
    mixed = [
        row.model_copy(update={"cell": row.cell.model_copy(update={"recipe": custom})})
        if row.cell.model == "vim_tiny_text" else row
        for row in rows.values()
    ]  # fmt: skip
    found = {(v.id, v.recipe): v for v in judge(LEDGER, mixed, []).verdicts}
    assert found["baseline-top1", "paper-scripts"].verdict == "reproduced"
    assert found["baseline-top1", "custom"].verdict == "not tested"
    assert "recipe.epochs is 100, the protocol's 300" in found["baseline-top1", "custom"].reason
    tables = paper_tables(LEDGER, summarise(rows), mixed)
    assert [(table.recipe, table.published) for table in tables] == [("paper-scripts", True), ("custom", False)]


def test_the_published_table_stands_beside_each_preset(rows):
    tables = paper_tables(LEDGER, summarise(rows), list(rows.values()))
    assert [(table.table, table.recipe, table.published) for table in tables] == [
        (1, "paper-scripts", True), (1, "paper-text", True),
    ]  # fmt: skip
    for table, model in zip(tables, PRESETS, strict=True):
        lines = {line.strategy: line for line in table.lines if line.model == "vim_tiny"}
        for strategy, printed in (("baseline", 70.1), ("upper", 70.5)):
            top1 = lines[strategy].numbers["top1"]
            assert lines[strategy].own == model
            assert top1.published == printed
            assert top1.difference == pytest.approx(sum(TOP1[model, strategy]) / 3 - printed)
        assert lines["lower"].line is None


def test_figures_have_the_published_points_of_rows_of_a_preset_only(paths, tmp_path):
    published = read_results(paths, CLAIMS).published
    assert {(model, n.model) for model, numbers in published.items() for n in numbers} == {
        (model, "vim_tiny") for model in PRESETS
    }
    custom = {"vim_tiny": {"embed_dim": 192, "recipe": {"preset": "paper-text", "epochs": 30}}}
    others = write_grid(tmp_path, ablation(models=custom, protocol="custom"))
    assert read_results(others, CLAIMS).published == {"vim_tiny": []}
    assert not any(map(comparable, read_rows(others).values()))


def test_a_difference_is_paired_by_seed_with_students_interval(rows):
    found = {(d.strategy, d.measure): d for d in differences(list(rows.values()))}
    assert len(found) == 2 * 5  # strategies and measures
    top1 = found["upper", "top1_best_percent"]
    assert (top1.recipes, top1.models) == (("paper-scripts", "paper-text"), tuple(PRESETS))
    apart = [b - a for a, b in zip(*(TOP1[model, "upper"] for model in PRESETS), strict=True)]
    half = stats.sem(apart) * stats.t.ppf(0.975, 2)
    assert top1.n == 3
    assert top1.means == pytest.approx((70.6, 60.3))
    assert top1.difference == pytest.approx(-10.3)
    assert (top1.low, top1.high) == pytest.approx((-10.3 - half, -10.3 + half))
    assert found["baseline", "top5_last_percent"].difference == 0


def test_a_difference_is_of_the_seeds_that_both_recipes_have(rows):
    some = [row for row in rows.values() if row.cell.model == "vim_tiny_scripts" or row.cell.seed == 1]
    top1 = next(d for d in differences(some) if (d.strategy, d.measure) == ("baseline", "top1_best_percent"))
    assert (top1.n, top1.low, top1.high) == (1, None, None)
    assert top1.means == (70.2, 60.2)
    assert differences([row for row in some if row.cell.model == "vim_tiny_scripts"]) == []


def test_two_custom_recipes_are_told_apart_by_their_models():
    made = [make_row(cell) for cell in mini().cells()]
    assert [part.name for part in by_recipe(made)] == ["custom (vim_mini_scripts)", "custom (vim_mini_text)"]
    assert {d.models for d in differences(made)} == {("vim_mini_scripts", "vim_mini_text")}


def test_a_small_batch_on_several_gpus_is_not_the_published_memory():
    cells = {cell.model: cell for cell in ablation(processes=4, seeds=[0]).cells()}
    assert {model: cell.images_per_pass for model, cell in cells.items()} == {
        "vim_tiny_scripts": 128, "vim_tiny_text": 32,
    }  # fmt: skip
    made = [row_of(cell) for cell in ablation(processes=4).cells()]
    tables = paper_tables(LEDGER, summarise(dict(zip(map(Path, map(str, range(12))), made, strict=True))), made)
    memory = {t.recipe: t.lines[0].numbers["memory"].difference is not None for t in tables}
    assert memory == {"paper-scripts": True, "paper-text": False}
    paper = ledger.load(ROOT / "config" / "claims.yaml")
    reasons = {v.recipe: v.reason for v in judge(paper, made, []).verdicts if v.id == "table1-vim_tiny-upper-memory"}
    assert "needs 128 images per GPU in a backward pass; these rows have 32" in reasons["paper-text"]
    assert "needs 128" not in reasons["paper-scripts"]


def test_what_was_run_names_each_recipe(rows):
    assert "recipes paper-scripts (vim_tiny_scripts), paper-text (vim_tiny_text), cifar100" in described(rows)
    assert {(line["model"], line["recipe"]) for line in summarise(rows)} == set(PRESETS.items())


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_judge_and_report_name_the_recipes_and_their_difference(tmp_path, which):
    paths = write(tmp_path, ablation()) if which == "paper" else write_grid(tmp_path, mini())
    shown = list(PRESETS.values()) if which == "paper" else ["custom (vim_mini_scripts)", "custom (vim_mini_text)"]
    given = ["--claims", str(CLAIMS), *map(str, paths)]
    assert main(["judge", "--out", str(tmp_path), *given]) == 0
    written = json.loads((tmp_path / "claims.json").read_text())
    assert [d["recipes"] for d in written["recipes"]] == [shown] * len(written["recipes"]) != []
    deviations = ["--deviations", str(ROOT / "docs" / "deviations.md")]
    assert main(["report", "--out", str(tmp_path / "report.html"), *deviations, *given]) == 0
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    for recipe in shown:
        assert f"of the paper: fusion strategies, recipe {recipe}\n" in text
    assert "### Recipes compared: vim_" in text
    if which == "paper":
        assert re.search(r"\| upper +\| top-1, best epoch +\| +3 \| +70\.60 \| +60\.30 \| −10\.30 \[−10\.\d\d, ", text)
        assert "| Table 1: Vim-Ti, no fusion: 70.1 % top-1 | paper-text | not reproduced |" in text
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert [name for name, n in Counter(ids).items() if n > 1] == []
    targets = {href[1:] for href in re.findall(r'href="(#[^"]+)"', page)}
    assert targets <= {*ids}


def test_the_gate_holds_each_recipe_to_its_own(tmp_path, capsys):
    paths = write_grid(tmp_path, mini())
    text = [path for path in paths if "text" in str(path)]
    for path in text:  # another curve
        curve = [epoch | {"lr": 2e-3} for epoch in epochs_of(Row.model_validate_json(path.read_text()))]
        write_epochs(curve, path.with_name("epochs.csv"))
    frozen = str(tmp_path / "frozen.json")
    assert main(["check", "--freeze", frozen, *map(str, paths)]) == 0
    assert main(["check", "--against", frozen, *map(str, paths)]) == 0
    capsys.readouterr()
    curve = epochs_of(Row.model_validate_json(text[0].read_text()))
    write_epochs(curve, text[0].with_name("epochs.csv"))  # the other recipe's
    assert main(["check", "--against", frozen, *map(str, paths)]) == 1
    assert "learning rate of vim_mini_text-baseline" in capsys.readouterr().err
    changed(text[0], cell={"recipe": mini().recipe_of("vim_mini_text").model_copy(update={"mixup": 0.1}).model_dump()})
    assert main(["check", "--against", frozen, str(text[0])]) == 2
    assert "differ in recipe.mixup (0.1 and 0.8)" in capsys.readouterr().err


def test_a_models_recipe_stands_in_for_the_experiments():
    grid = ablation(models={"a": {"embed_dim": 192}, "b": {"embed_dim": 192, "recipe": "paper-text"}})
    assert [recipe.preset for recipe in grid.recipes] == ["paper-scripts", "paper-text"]
    assert "recipe" not in grid.model_dump()["models"]["a"]
    with pytest.raises(InputError, match=r"models\.b\.recipe\.preset: Input should be"):
        ablation(models={"b": {"embed_dim": 192, "recipe": "paper-txt"}})
    custom = ablation(models={"b": {"embed_dim": 192, "recipe": {"epochs": 9}}}, protocol="custom")
    assert custom.recipe_of("b").sched_on_updates  # as the experiment's own recipe has it under this protocol
    assert ARCHITECTURES["vim_tiny"] != MODELS["vim_tiny"]  # Vim's class token; the grid says where it stands
