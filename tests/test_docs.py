"""What the documents tell a user to write is what the code takes."""

import re
from pathlib import Path

import pytest
import yaml

from famba.claims.ledger import load
from famba.config import Experiment, Recipe
from tests.helpers import ROOT
from tests.helpers.file_list import file_list

PAGE = (ROOT / "docs" / "experiments.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (config/\S+)\n(.*?)```", PAGE, flags=re.DOTALL))


def table(heading: str) -> dict[str, str]:
    """Key and default of each row of the table under a heading; rows of several keys are taken apart."""
    _, _, rest = PAGE.partition(heading)
    body = re.search(r"\|---.*?\n((?:\|.*\n)+)", rest)
    rows = [line.split("|")[1:3] for line in body[1].splitlines()]
    return {name: default.strip() for keys, default in rows for name in re.findall(r"`(\w+)`", keys)}


def test_the_experiment_to_copy_is_one(tmp_path: Path) -> None:
    experiment = Experiment.from_config(yaml.safe_load(BLOCKS["config/mine.yaml"]), "config/mine.yaml")
    assert {cell.id for cell in experiment.cells()} == {
        f"vim_mini-{strategy}-s{seed}" for strategy in ("baseline", "upper", "late") for seed in (0, 1, 2)
    }
    path = tmp_path / "my-claims.yaml"
    path.write_text(BLOCKS["config/my-claims.yaml"])
    assert {name for claim in load(path).claims for test in claim.tests for name in test.models} == {"vim_mini"}


def test_every_setting_of_the_experiment_is_told() -> None:
    assert set(table("Of the experiment:")) == set(Experiment.model_fields)


@pytest.mark.parametrize("name", list(Recipe.model_fields))
def test_every_setting_of_the_recipe_is_told_with_its_default(name: str) -> None:
    told = table("Of its `recipe`")
    assert told.keys() == Recipe.model_fields.keys()
    keys = next(keys for keys in re.findall(r"^\| ([^|]*) \|", PAGE, flags=re.MULTILINE) if f"`{name}`" in keys)
    defaults = yaml.safe_load(f"[{told[name]}]")
    value = defaults[re.findall(r"`(\w+)`", keys).index(name)] if len(defaults) > 1 else defaults[0]
    real = getattr(Recipe(), name)
    assert value is real is None or (tuple(value) if isinstance(real, tuple) else type(real)(value)) == real


def test_every_file_is_listed_with_its_first_sentence() -> None:
    assert (ROOT / "docs" / "files.md").read_text() == file_list()
