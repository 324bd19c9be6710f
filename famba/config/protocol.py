"""What the published protocols ask of a training: `paper` and `fast` are the released experiment, setting by setting.

The one place that knows. An experiment that claims a protocol and departs from it is refused before it trains
(trainable.py); `famba check --rules` and the verdicts ask the same of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from famba.config.presets import EXECUTION, FREE, PRESETS
from famba.config.settings import ARCHITECTURES, Fusion, Recipe
from famba.strategies import NAMED, strategy

if TYPE_CHECKING:
    from famba.config import Cell

DATASET = "cifar100"
# the paper's section 3.2 and the released code have the class token at the head; Vim, whose names these are, has not
MODELS = {name: vim.model_copy(update={"cls_position": "head"}) for name, vim in ARCHITECTURES.items()}
FREE_OF = {"paper": FREE, "fast": FREE | EXECUTION}


def published_model(cell: Cell) -> str:
    """What the paper calls a cell's model, whatever the experiment does: its architecture tells. Else the cell's name.

    So one experiment can train a published model under several recipes, with a name for each.
    """
    return next((name for name, vim in MODELS.items() if vim == cell.architecture), cell.model)


def deviation(cell: Cell) -> str | None:
    """The first setting in which a cell departs from the protocol that it claims, with both values.

    None for `smoke` and `custom` ones, which claim none. Seeds, devices, processes and scan backends are free, and so
    are other architectures and schedules under names of their own: they stand beside the published ones and are not
    taken for them.
    """
    if cell.protocol not in FREE_OF:
        return None
    for key, found, published in _published(cell):
        if found != published:
            return f"{key} is {_shown(found)}, the protocol's {_shown(published)}"
    return None


def _published(cell: Cell) -> Iterator[tuple[str, Any, Any]]:
    """(key, the cell's value, the protocol's) of all that the protocol settles."""
    yield "dataset", cell.dataset, DATASET
    free = FREE_OF[cell.protocol] | {"preset"}
    yield from min((list(_departures(cell.recipe, Recipe(preset=name), free)) for name in PRESETS), key=len)
    for name, value in Fusion():
        if cell.strategy in NAMED or name in ("order", "budget"):  # a strategy of one's own may have its own method
            yield f"fusion.{name}", getattr(cell.fusion, name), value
    for name, value in MODELS.get(cell.model, cell.architecture):
        yield f"models.{cell.model}.{name}", getattr(cell.architecture, name), value
    if cell.strategy in NAMED:
        yield f"schedule of {cell.strategy}", cell.schedule, strategy(cell.strategy, cell.architecture.depth)


def _departures(recipe: Recipe, preset: Recipe, free: frozenset[str]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in preset:
        if name not in free and getattr(recipe, name) != value:
            yield f"recipe.{name}", getattr(recipe, name), value


def _shown(value: Any) -> str:
    """As a YAML file has it."""
    return value if isinstance(value, str) else json.dumps(value)
