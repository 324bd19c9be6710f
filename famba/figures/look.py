"""A style file of `famba figures`: what strategies and models are called in figures, their colours and markers."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from famba.config import yaml_file
from famba.config.validation import Strict, short, validated
from famba.text import nearest, one_line

MARKERS = ("o", "s", "D", "d", "v", "^", "<", ">", "P", "X", "p", "h", "H", "*")


def _plain(text: str) -> str:
    if "$" in text or one_line(text) != text:
        raise ValueError("a label is one line of plain text, without $")
    return text


def _colour(text: str) -> str:
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ValueError(f"{short(text)} is no colour: # and six hexadecimal digits, such as #0072B2")
    return text


Label = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_plain)]
Colour = Annotated[str, AfterValidator(_colour)]


class StrategyLook(Strict):
    """Of a strategy; what is null stays famba's."""

    label: Label | None = None
    colour: Colour | None = None
    marker: Literal[MARKERS] | None = None  # type: ignore[valid-type] # matplotlib's


class ModelLook(Strict):
    """Of a model."""

    label: Label


class Look(Strict):
    """A style file (YAML or JSON). Names are those of the rows, so that one file may serve several experiments."""

    strategies: dict[str, StrategyLook] = Field(default={})
    models: dict[str, ModelLook] = Field(default={})

    def of_strategies(self, what: Literal["label", "colour", "marker"]) -> dict[str, str]:
        """What the file sets, by strategy."""
        return {name: value for name, look in self.strategies.items() if (value := getattr(look, what))}

    def unknown(self, strategies: Iterable[str], models: Iterable[str]) -> list[str]:
        """A line about every name that no row has: a misspelt one would do nothing."""
        there: Mapping[str, tuple[Iterable[str], Iterable[str]]] = {
            "strategy": (self.strategies, strategies), "model": (self.models, models)
        }  # fmt: skip
        return [
            one_line(f"no row is of the {kind} {name!r}{nearest(name, known)}")
            for kind, (names, known) in there.items()
            for name in names
            if name not in known
        ]


FAMBAS = Look()  # changes nothing


def read_look(path: Path) -> Look:
    """Read a style file. Raises InputError, one line naming file and key."""
    return validated(Look, yaml_file.read(path, "the style file") or {}, str(path))
