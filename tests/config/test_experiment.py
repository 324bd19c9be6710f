"""Experiment files: what is accepted, what is refused and in which words, and the grid that comes out."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from famba.commands import schema
from famba.config import Architecture, Cell, Experiment, Recipe
from famba.config.validation import SYNONYMS
from famba.errors import InputError
from famba.strategies import tokens_per_layer
from famba.text import model_name
from tests.helpers import ROOT
from tests.helpers.cells import MINIMAL


@pytest.mark.parametrize(
    ("name", "cells"),
    [("paper", 2 * 5 * 3), ("smoke", 2 * 5), ("recipe-ablation", 2 * 2 * 3), ("smoke-recipe-ablation", 2 * 2 * 2)],
)
def test_shipped_experiments(name, cells):
    path = ROOT / "config" / f"{name}.yaml"
    experiment = Experiment.load(path)
    assert experiment.experiment == name
    assert len({cell.id for cell in experiment.cells()}) == cells
    jsonschema.validate(
        yaml.safe_load(path.read_text()), json.loads((ROOT / "config/schema/experiment.json").read_text())
    )


def test_published_schemas_are_the_code_s():
    for path, text in schema.published().items():
        assert path.read_text() == text, "run `python -m famba.commands.schema`"


def test_the_paper_s_recipe_is_the_default():
    cell = Experiment.load(ROOT / "config" / "paper.yaml").cell("vim_small", "upper", 2)
    assert cell.schedule == (0,) * 5 + (9,) * 19
    assert (cell.recipe.epochs, cell.recipe.global_batch, cell.recipe.precision) == (300, 512, "fp32")
    assert (cell.architecture.tokens, cell.architecture.cls_index) == (197, 0)
    assert Cell.from_json(cell.model_dump_json()) == cell


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": [1]}, "file.yaml: sed: unknown key; did you mean 'seeds'?"),
        ({"recipe": {"epoch": 3}}, "file.yaml: recipe.epoch: unknown key; did you mean 'epochs'?"),
        ({"models": {"a": {"width": 48}}}, "file.yaml: models.a.width: unknown key; did you mean 'embed_dim'?"),
        ({"recipe": {"Batch-Size": 8}}, "file.yaml: recipe.Batch-Size: unknown key; did you mean 'global_batch'?"),
        ({"learning_rate": 1}, "file.yaml: learning_rate: unknown key; did you mean 'lr' under 'recipe'?"),
        (
            {"models": {"a": {"embed_dim": 8, "dept": 2}}},
            "file.yaml: models.a.dept: unknown key; did you mean 'depth'?",
        ),
        ({"models": ["vim_tinny"]}, "file.yaml: models: unknown model 'vim_tinny'; did you mean 'vim_tiny'?"),
        ({"models": {"a b": {"embed_dim": 8}}}, "file.yaml: models.a b: 'a b' is no such name: it has letters, digits"),
        (
            {"models": {"-B": {"embed_dim": 8}}},
            "'-B' is no such name: it has letters, digits, _, . and -, and does not",
        ),
        (
            {"models": {"Vim-B": {"embed_dim": 8}, "vim-b": {"embed_dim": 16}}},
            "models: Vim-B and vim-b differ in case only",
        ),
        (
            {"strategies": ["Upper-9"]},
            "strategies.0: 'Upper-9' is no such name: it has lower-case letters, digits and _; famba figures --style",
        ),
        ({"models": {}}, "models is empty"),
        ({"strategies": ["uper"]}, "unknown strategy 'uper'; did you mean 'upper'?"),
        (
            {"schedules": {"mine": [1, 2]}, "strategies": ["mine"]},
            "schedules.mine has 2 layers and the model 24 (vim_tiny)",
        ),
        ({"seeds": [1, 1]}, "seeds has a value twice"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"recipe": {"micro_batch": 100}}, "recipe: micro_batch 100 must divide mixup_batch 128"),
        ({"recipe": {"lr": "fast"}}, "recipe.lr: Input should be a valid number, found 'fast'"),
        ({"models": {"a": {"embed_dim": 8, "img_size": 30}}}, "img_size 30 is not a multiple of patch_size 16"),
        ({"models": {"a": {"embed_dim": 10**9}}}, "models.a.embed_dim: Input should be less than or equal to 65536"),
        ({"experiment": ".."}, "experiment: '..' is no such name: it has letters, digits, _, . and -"),
        ({"experiment": "a/b"}, "experiment: 'a/b' is no such name"),
        ({"experiment": "-x"}, "experiment: '-x' is no such name"),
        ({"seeds": [True]}, "seeds.0: Input should be a valid integer, found True"),
        ({"recipe": {"lr": True}}, "recipe.lr: Input should be a valid number, found True"),
        ({"recipe": {"lr": "5e-4"}}, "recipe.lr: Input should be a valid number, found '5e-4'"),
        ({"recipe": {"cuda_graphs": "yes"}}, "recipe.cuda_graphs: Input should be a valid boolean, found 'yes'"),
        ({"recipe": {"epochs": 2.5}}, "recipe.epochs: Input should be a valid integer, found 2.5"),
        ({"recipe": {"betas": [1.0, 1.0]}}, "recipe.betas.0: Input should be less than 1, found 1.0"),
        ({"recipe": {"lr": float("inf")}}, "recipe.lr: Input should be a finite number, found inf"),
        ({"recipe": {"weight_decay": float("nan")}}, "recipe.weight_decay: Input should be"),
        ({"recipe": {"lr": 0}}, "recipe.lr: Input should be greater than 0"),
        (
            {"scan": "tritn"},
            "scan: Input should be 'auto', 'mamba_ssm', 'cpu', 'triton', 'chunked' or 'reference', "
            "found 'tritn'; did you mean 'triton'?",
        ),
        ({"cls_position": "end"}, "file.yaml: cls_position: Input should be 'middle' or 'head', found 'end'"),
        ({"dataset": "cifar10"}, "dataset: unknown data set 'cifar10'; did you mean 'cifar100'?; an image folder"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(change, message):
    with pytest.raises(InputError) as error:
        Experiment.from_config({**MINIMAL, **change}, "file.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_required_key_is_named_rather_than_missed():
    with pytest.raises(InputError, match="sedes: unknown key; did you mean 'seeds'"):
        Experiment.from_config({**{k: v for k, v in MINIMAL.items() if k != "seeds"}, "sedes": [0]})


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "expected a mapping"), ("", "expected a mapping"), (None, "cannot read")],
)
def test_a_file_that_is_no_experiment(tmp_path, text, message):
    path = tmp_path / "e.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Experiment.load(path)
    assert str(path) in str(error.value)


def test_a_checkpoint_to_start_from_is_an_input_of_its_cells_and_looked_for_before_they_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"embed_dim": 8, "depth": 2}
    tuned = {**small, "recipe": {"epochs": 10, "init": "vim.pth"}}
    experiment = Experiment.from_config({**MINIMAL, "models": {"plain": small, "tuned": tuned}})
    files = {name: experiment.init_files(SimpleNamespace(model=name, seed="0")) for name in experiment.models}
    assert files == {"plain": [], "tuned": ["vim.pth"]}
    with pytest.raises(InputError, match=rf"recipe.init: vim.pth is not there; it is looked for from {tmp_path}"):
        experiment.require_init()
    (tmp_path / "vim.pth").touch()
    experiment.require_init()

    by_seed = Experiment.from_config({**MINIMAL, "seeds": [0, 3], "recipe": {"init": "s{seed}/w.pt"}})
    (model,) = by_seed.models
    assert by_seed.init_files(SimpleNamespace(model=model, seed="3")) == ["s3/w.pt"]
    assert {cell.init for cell in by_seed.cells()} == {Path("s0/w.pt"), Path("s3/w.pt")}
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0/w.pt").touch()
    with pytest.raises(InputError, match=r"recipe\.init: s3/w\.pt is not there"):
        by_seed.require_init()


def test_a_ledger_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    Experiment.from_config(MINIMAL).require_claims()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"claims: config/claims.yaml is not there; it is looked for from {tmp_path}"):
        Experiment.from_config(MINIMAL).require_claims()


def test_own_schedules_join_the_grid():
    mine = [0] * 23 + [5]
    experiment = Experiment.from_config({**MINIMAL, "strategies": ["baseline", "mine"], "schedules": {"mine": mine}})
    assert experiment.cell("vim_tiny", "mine", 0).schedule == tuple(mine)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"from": 5, "r": 9}, [0] * 5 + [9] * 19),
        ({"to": 18, "r": 9}, [9] * 19 + [0] * 5),
        ({"from": 2, "to": 3, "r": 14}, [0, 0, 14, 14] + [0] * 20),
        ({"from": 0, "r": 4}, [4] * 24),
        ({"layers": [1, 3], "r": 14}, [0, 14, 0, 14] + [0] * 20),
    ],
)
def test_a_short_schedule_is_the_long_one(written, expected):
    short, full = (
        Experiment.from_config({**MINIMAL, "strategies": ["mine"], "schedules": {"mine": schedule}})
        for schedule in (written, expected)
    )
    assert short.cells() == full.cells()
    assert Experiment.from_config(short.model_dump()) == short
    jsonschema.validate(
        {**MINIMAL, "schedules": {"mine": written}}, json.loads((ROOT / "config/schema/experiment.json").read_text())
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"form": 5, "r": 9}, ".form: unknown key; did you mean 'from'?"),
        ({"from": 5}, ": name `r`, the tokens that go in each of these layers"),
        ({"r": 9}, ": name the layers that fuse either by `from` and `to` (or one of them) or by `layers`"),
        ({"to": 3, "layers": [1], "r": 9}, ": name the layers that fuse either by"),
        ({"from": 5, "to": 4, "r": 9}, ": from 5 is after to 4"),
        ({"layers": [], "r": 9}, ".layers: Tuple should have at least 1 item"),
        ({"layers": [3, 3], "r": 9}, ": layers has a value twice"),
        ({"layers": [-1], "r": 9}, ".layers.0: Input should be greater than or equal to 0, found -1"),
        ({"layers": [24], "r": 9}, " fuses in layer 24 of a model with layers 0 to 23 (vim_tiny)"),
        ({"to": 24, "r": 9}, " fuses in layer 24 of a model with layers 0 to 23 (vim_tiny)"),
        ({"from": True, "r": 9}, ".from: Input should be a valid integer, found True"),
        ({"to": 3, "r": 0}, ".r: Input should be greater than or equal to 1, found 0"),
        ({"from": 0, "r": 99}, ": mine asks for 99 tokens in layer 0 of vim_tiny, where 98 can be fused"),
        ({"like": "upper", "r": 9}, ": say which tokens go by one of `like`, `per_layer` and `r`"),
        ({"like": "upper", "from": 9}, ": `layers`, `from` and `to` belong to `r`, and not to `like`"),
        ({"method": "utr"}, ": say which tokens go by one of `like`, `per_layer` and `r`"),
        ({"like": "uper"}, ".like: "),
        ({"per_layer": [9], "method": "utr"}, " has 1 layer and the model 24 (vim_tiny)"),
        ({"like": "upper", "placement": "behind"}, ".placement: "),
        ({"like": "upper", "settings": {"q": [1]}}, ".settings.q"),
        ("late", ": write one whole number per layer, or {from: 5, r: 9}"),
        ([0.5] * 24, ".0: Input should be a valid integer, found 0.5"),
    ],
)
def test_a_wrong_schedule_is_one_line_about_the_form_that_was_meant(written, message):
    with pytest.raises(InputError) as error:
        Experiment.from_config({**MINIMAL, "schedules": {"mine": written}}, "file.yaml")
    assert f"file.yaml: schedules.mine{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_released_scripts_18_layers_are_strategies_by_name():
    experiment = Experiment.from_config({**MINIMAL, "strategies": ["lower_18", "upper_18"]})
    assert experiment.cell("vim_tiny", "lower_18", 0).schedule == (9,) * 18 + (0,) * 6
    assert experiment.cell("vim_tiny", "upper_18", 0).schedule == (0,) * 6 + (9,) * 18
    with pytest.raises(InputError, match="schedules: upper_18 is a published strategy"):
        Experiment.from_config({**MINIMAL, "schedules": {"upper_18": [0] * 24}})


def test_the_class_token_stands_where_the_experiment_says_unless_a_model_says_otherwise():
    own = {"a": {"embed_dim": 8}, "b": {"embed_dim": 8, "cls_position": "middle"}}
    for models, places in ((["vim_tiny"], ["head"]), (own, ["head", "middle"])):
        experiment = Experiment.from_config({**MINIMAL, "models": models, "cls_position": "head"})
        assert [model.cls_position for model in experiment.models.values()] == places
    assert Experiment.from_config(MINIMAL).models["vim_tiny"].cls_position == "middle"


@pytest.mark.parametrize(
    ("cell_id", "message"),
    [("vim_tiny-uper-s0", "did you mean 'vim_tiny-upper-s0'"), ("x", "known: vim_tiny-baseline")],
)
def test_a_cell_that_is_not_in_the_grid(cell_id, message):
    with pytest.raises(InputError, match=message):
        Experiment.from_config(MINIMAL).cell_by_id(cell_id)


def test_reading_a_configuration_needs_no_torch():
    """Snakemake parses the grid in every job: importing torch there would cost seconds each time."""
    code = "import sys, famba.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": [["vim_tiny"]]}, "models: unknown model ['vim_tiny']"),
        ({"models": [{"a": 1}]}, "models: unknown model {'a': 1}"),
        ({"models": ["vim_tiny", "vim_tiny"]}, "models has a value twice"),
        ({"container": ""}, "container: String should have at least 1 character"),
        ({"threads": 100_000}, "threads: 100,000 is more than 1,024, the most that is accepted"),
        ({"recipe": {"epochs": 10**12}}, "recipe.epochs: 1,000,000,000,000 is more than 100,000"),
        ({"recipe": {"repeats": 101}}, "recipe.repeats: 101 is more than 100"),
        ({"recipe": {"eval_resize": 100_000}}, "recipe.eval_resize: 100,000 is more than 4,096"),
        ({"recipe": {"warmup_lr": 1}}, "recipe.warmup_lr: 1 is above the peak of 0.0005, which it rises to"),
        ({"seeds": list(range(10_001))}, "a grid of 50,005 cells; at most 10,000 fit into one experiment"),
        ({"a\nb\x1b[1m": 1}, "a b\\x1b[1m: unknown key"),
        ({"dataset": "x" * 9999}, "xxx…"),
        ({"recipe": "paper-txt"}, "recipe.preset: Input should be"),
        ({"protocol": ["paper"]}, "protocol: Input should be"),
        ({"cls_position": {"a": 1}}, "cls_position: Input should be"),
    ],
)
def test_a_senseless_setting_is_one_printable_line(change, message):
    with pytest.raises(InputError) as error:
        Experiment.from_config({**MINIMAL, **change}, "file.yaml")
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", ['{"a": ' * 100_000, '{"a": ' + "[" * 900 + "]" * 900 + "}", '{"a": ' + "1" * 9999 + "}"]
)
def test_a_cell_of_deep_or_long_json_is_one_line(text):
    with pytest.raises(InputError) as error:
        Cell.from_json(text)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_each_strategy_of_ones_own_may_have_its_own_method():
    mine = {
        "by_chance": {"like": "upper", "method": "random_merge"},
        "hsa": {"per_layer": [0, 0, 9, 0], "method": "hsa", "settings": {"score": "code"}},
        "inside": {"like": "upper", "placement": "inside"},
        "late": [0, 0, 0, 9],
    }
    model = {"embed_dim": 32, "depth": 4, "img_size": 32, "patch_size": 4}
    settings = {**MINIMAL, "protocol": "custom", "models": {"vim": model}, "schedules": mine}
    settings |= {"strategies": ["baseline", "upper", *mine], "fusion": {"budget": "proportional"}, "seeds": [0]}
    cells = {cell.strategy: cell for cell in Experiment.from_config(settings).cells()}
    trace = {name: tokens_per_layer(cell.schedule, 65, cell.architecture.cls_index) for name, cell in cells.items()}
    assert trace["by_chance"] == trace["upper"] == trace["inside"]
    assert cells["by_chance"].schedule == (0, 18, 19, 13)  # the last layer can lose no more than half of its patches
    assert [cells[name].fusion.is_published for name in cells] == [True, True, False, False, False, True]
    assert cells["hsa"].schedule == (0, 0, 9, 0)
    assert cells["hsa"].mixed == (0, 0, 0, 9)  # it acts after the mixer of its layer
    assert cells["by_chance"].mixed == cells["by_chance"].schedule
    written = cells["hsa"].model_dump(mode="json")["fusion"]
    assert written == {
        "order": "sequence", "budget": "proportional", "method": "hsa", "settings": {"score": "code"},
    }  # fmt: skip
    assert cells["upper"].model_dump(mode="json")["fusion"] == {"order": "sequence", "budget": "proportional"}


def test_a_published_strategy_keeps_the_published_method():
    with pytest.raises(InputError, match=r"fusion: a method belongs to a strategy of your own"):
        Experiment.from_config({**MINIMAL, "fusion": {"method": "utr"}})


def test_every_synonym_leads_to_a_setting():
    settings = {*Experiment.model_fields, *Recipe.model_fields, *Architecture.model_fields}
    assert set(SYNONYMS.values()) <= settings
    assert not settings & SYNONYMS.keys()


@pytest.fixture
def flowers(tmp_path):
    """A `data` block, and the manifest of two images that it names."""
    head = {"evaluated": "val", "train": 40, "test": 14, "bytes": 9, "pixels": [30, 20], "sha256": "a" * 64}
    path = tmp_path / "flowers.jsonl"
    path.write_text(json.dumps({"famba_manifest": 1, **head, "classes": {"daisy": [20, 7], "rose": [20, 7]}}) + "\n")
    return {"name": "flowers", "manifest": str(path)}


def of_folder(**data):
    given = {key: value for key, value in MINIMAL.items() if key != "dataset"}
    return {**given, "protocol": "custom", "recipe": {}, "data": data}


def test_an_image_folder_is_one_block_and_its_cells_know_what_its_manifest_says(flowers):
    grid = Experiment.from_config(of_folder(**flowers))
    assert grid.dataset == "flowers"
    assert grid.sizes == (40, 14, (30, 20, 3), 2)
    cell = grid.cells()[0]
    assert (cell.dataset, cell.sizes) == ("flowers", grid.sizes)
    assert cell.model_dump(mode="json")["data"] == {
        "manifest": flowers["manifest"], "size": None, "sha256": "a" * 64, "train": 40, "test": 14, "classes": 2,
        "pixels": [30, 20],
    }  # fmt: skip
    assert Cell.from_json(cell.model_dump_json()) == cell
    assert Experiment.from_config(json.loads(grid.model_dump_json())) == grid
    assert Experiment.from_config(of_folder(**flowers, size=16)).sizes.stored == (16, 16, 3)
    assert "data" not in json.loads(Experiment.from_config(MINIMAL).cells()[0].model_dump_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "digits"}, "data.name: digits is a data set of famba's own; call yours otherwise"),
        ({"name": "-x"}, "dataset: String should match pattern"),
        ({"name": None}, "data.name: Field required"),
        ({"size": 0}, "data.size: Input should be greater than or equal to 1"),
        ({"manifest": None}, "data.manifest: Field required"),
        (
            {"manifest": "gone.jsonl"},
            "data: manifest gone.jsonl: cannot be read (No such file or directory)",
        ),
        ({"folders": "x"}, "data.folders: unknown key; did you mean 'folder'?"),
    ],
)
def test_a_wrong_data_block_is_one_line(flowers, change, message):
    data = {key: value for key, value in {**flowers, **change}.items() if value is not None}
    with pytest.raises(InputError) as error:
        Experiment.from_config(of_folder(**data), "file.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_an_image_folder_does_not_go_with(flowers):
    with pytest.raises(InputError, match="data: 'digits' is a name: dataset: 'digits'"):
        Experiment.from_config({key: value for key, value in MINIMAL.items() if key != "dataset"} | {"data": "digits"})
    with pytest.raises(InputError, match=r"dataset is digits, and data\.name flowers; leave dataset out"):
        Experiment.from_config({**of_folder(**flowers), "dataset": "digits"})
    tensor = of_folder(**flowers)
    tensor["recipe"] |= {"augmentation": "tensor", "rand_augment": None}
    with pytest.raises(InputError, match=r"data\.size: recipe\.augmentation tensor takes images of one size"):
        Experiment.from_config(tensor)
    with pytest.raises(InputError, match="dataset is flowers, the protocol's cifar100"):
        Experiment.from_config({**of_folder(**flowers), "protocol": "paper"})


def test_a_model_may_be_called_as_in_a_paper():
    grid = Experiment.from_config({**MINIMAL, "models": {"Vim-B": {"embed_dim": 8}}, "strategies": ["upper"]})
    assert [cell.id for cell in grid.cells()] == ["Vim-B-upper-s0"]
    assert grid.cell_by_id("Vim-B-upper-s0").model == model_name("Vim-B") == "Vim-B"
