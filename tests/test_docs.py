"""What the documents tell a user to write is what the code takes."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from famba.claims.ledger import load
from famba.cli import COMMANDS
from famba.config import Experiment, Recipe
from famba.cost.plan import plan
from tests.helpers import ROOT
from tests.helpers.file_list import file_list

PAGE = (ROOT / "docs" / "experiments.md").read_text()
PATTERNS = ("README.md", "docs/*.md", "*/README.md", "results/evidence/*/README.md", ".github/*.md")
PAGES = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})
FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
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


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_heading_that_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))
    for file, _, anchor in (target.partition("#") for target in targets if not target.startswith("http")):
        linked = page.parent / file if file else page
        assert linked.exists(), file
        assert not anchor or anchor in anchors(linked), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one_that_famba_takes(page: Path) -> None:
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^(?:\$ )?famba ([a-z].*)", block.replace("\\\n", " "), flags=re.MULTILINE):
            name, *arguments = shlex.split(line, comments=True)
            assert name in COMMANDS, line
            parser = argparse.ArgumentParser(name)
            import_module(f"famba.commands.{name}").add_arguments(parser)
            parser.parse_args(arguments)  # exits if it does not take them


@pytest.mark.parametrize(("config", "device"), [(c, d) for c in ("paper", "fast") for d in ("a100", "h200")])
def test_the_estimated_hours_are_those_of_famba_plan(config: str, device: str) -> None:
    cells, _ = plan(Experiment.load(ROOT / "config" / f"{config}.yaml"), device)
    hours = [cell.hours for cell in cells]
    row = f"{sum(hours):.1f} | {min(hours):.2f} | {max(hours):.2f} |"
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert re.search(rf"config/{config}\.yaml`, \w+ \| {device.upper()} \| {re.escape(row)}", page), row
    if (config, device) == ("paper", "a100"):
        assert f"an estimated {sum(hours):.0f} hours of one A100" in " ".join((ROOT / "README.md").read_text().split())
