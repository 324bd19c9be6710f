"""The tutorial of docs/methods.md does what it says: its method keeps the contract, and its grid trains it."""

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from famba.cli import main
from famba.config import Experiment
from famba.errors import InputError
from famba.methods.contract import check
from famba.methods.names import METHODS, build, method_class, settings_of
from famba.training.train import Training
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "methods.md").read_text()
METHOD = re.search(r"```python\n# my_method.py\n(.*?)```", PAGE, flags=re.DOTALL)[1]
GRID = re.search(r"```yaml\n# config/my-method.yaml\n(.*?)```", PAGE, flags=re.DOTALL)[1]
SCHEDULES = re.search(r"```yaml\n(schedules:.*?)```", PAGE, flags=re.DOTALL)[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_method.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_method_is_tested_by_the_command_that_it_gives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert METHOD.count("\n") <= 31
    command = re.search(r"^famba (methods test my_method.py.*?) +#", PAGE, flags=re.MULTILINE)[1]
    assert main(command.split()) == 0
    told = capsys.readouterr().out
    assert told.startswith("my_method.py:MyMethod: acts before the mixer; distance='channel'\n")
    assert "my_method.py:MyMethod keeps its contract" in told


def test_its_grid_trains_it(here: Path) -> None:
    experiment = Experiment.from_config(yaml.safe_load(GRID), "config/my-method.yaml")
    cells = {cell.strategy: cell for cell in experiment.cells()}
    assert list(cells) == ["baseline", "upper", "mine", "by_chance"]
    assert cells["mine"].schedule == cells["by_chance"].schedule == cells["upper"].schedule
    cell = cells["mine"].model_copy(update={"recipe": cells["mine"].recipe.model_copy(update={"epochs": 1})})
    row = Training(cell, here / "cell", here / "data").run()
    assert row.cell.fusion.method == "my_method.py:MyMethod"
    assert row.cell.fusion.settings == {"distance": "channel"}
    assert row.tokens.measured == row.tokens.scheduled


def test_a_changed_file_is_another_method(here: Path) -> None:
    """Its cells are trained again, and the old ones do not go on, or are repeated, with the new file."""
    grid = yaml.safe_load(GRID)
    before = {cell.id: cell.model_dump_json() for cell in Experiment.from_config(grid).cells()}
    old = Experiment.from_config(grid).cell("vim_mini", "mine", 0)
    assert old.fusion.code == f"sha256 {hashlib.sha256(METHOD.encode()).hexdigest()}"
    (here / "my_method.py").write_text(METHOD.replace("stable=True", "stable=True, descending=True"))
    after = {cell.id: cell.model_dump_json() for cell in Experiment.from_config(grid).cells()}
    assert {name for name in before if before[name] != after[name]} == {f"vim_mini-mine-s{seed}" for seed in (0, 1, 2)}
    with pytest.raises(
        InputError, match=r"method my_method.py:MyMethod: this cell is one of sha256 \w+, and here is sha256"
    ):
        Training(old, here / "cell", here / "data")
    (here / "my_method.py").unlink()
    with pytest.raises(InputError, match=r"method my_method.py: no such file, seen from"):
        Experiment.from_config(grid).cells()


def test_the_schedules_that_it_shows_are_ones() -> None:
    schedules = yaml.safe_load(SCHEDULES)["schedules"]
    experiment = Experiment.from_config(
        {"experiment": "x", "protocol": "custom", "dataset": "cifar100", "models": ["vim_tiny"], "seeds": [0],
         "strategies": list(schedules), "schedules": schedules}
    )  # fmt: skip
    removed = {cell.strategy: sum(cell.schedule) for cell in experiment.cells()}
    assert removed == {"by_chance": 171, "r_meeto": 55, "top_vim": 95, "top_vim_code": 90}


def test_every_method_and_setting_is_on_the_page() -> None:
    for name in METHODS:
        assert re.search(rf"^\| `{name}`", PAGE, flags=re.MULTILINE), name
        for setting in settings_of(method_class(name)):
            assert re.search(rf"`{setting}\b|\b{setting}: ", PAGE), (name, setting)


def test_every_check_is_on_the_page() -> None:
    import torch  # noqa: PLC0415

    table = PAGE.partition("### The contract")[2]
    told = re.findall(r"^\| ([a-z ]+) \|", table, flags=re.MULTILINE)[1:]
    method = build("famba_v", {"threshold": 0.5})  # a check of all that there are
    checks = [name for name, _ in check(method, torch.device("cpu"), torch.float32)]
    assert told == [*checks, "model"]
