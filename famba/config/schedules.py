"""A strategy of your own in an experiment file: how many tokens go in each layer, and by which method."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, WrapValidator, model_validator

from famba.config import methods
from famba.config.settings import Count, Setting, Text, Whole
from famba.config.validation import Strict, short
from famba.strategies import NAMED, strategy
from famba.text import count

_Numbers = tuple[Whole, ...]
_NUMBERS = TypeAdapter(_Numbers)


class Own(Strict):
    """The tokens that go in each layer: `like` a published strategy, `per_layer`, or `r` tokens in some layers.

    Layers are counted from 0, `from` and `to` included. Without `from` they begin at the first layer, without `to` they
    end with the model's last. Unlike a list, these and `like` fit models of any depth that has such layers.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    like: Literal[*NAMED] | None = None  # type: ignore[valid-type]
    per_layer: _Numbers | None = None
    r: Count | None = None
    layers: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    first: Annotated[Whole | None, Field(alias="from")] = None
    last: Annotated[Whole | None, Field(alias="to")] = None
    method: Text = methods.DEFAULT
    settings: dict[str, Setting] = Field(default={})
    placement: methods.Placement | None = None

    @model_validator(mode="after")
    def _one_set_of_layers(self) -> Own:
        given = [name for name in ("like", "per_layer", "r") if getattr(self, name) is not None]
        if not given and (self.layers, self.first, self.last) != (None, None, None):
            raise ValueError("name `r`, the tokens that go in each of these layers")
        if len(given) != 1:
            raise ValueError("say which tokens go by one of `like`, `per_layer` and `r`")
        if self.r is None:
            if (self.layers, self.first, self.last) != (None, None, None):
                raise ValueError(f"`layers`, `from` and `to` belong to `r`, and not to `{given[0]}`")
            return self
        ends = (self.first, self.last)
        if (self.layers is None) == (ends == (None, None)):
            raise ValueError("name the layers that fuse either by `from` and `to` (or one of them) or by `layers`")
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError("layers has a value twice")
        if self.first is not None and self.last is not None and self.first > self.last:
            raise ValueError(f"from {self.first} is after to {self.last}")
        return self

    def written_out(self, depth: int) -> tuple[int, ...]:
        """Tokens that go in each of `depth` layers, of all forms but `like`. Raises ValueError if they do not fit."""
        if self.per_layer is not None:
            return _fitting(self.per_layer, depth)
        assert self.r is not None
        named = self.layers or tuple(layer for layer in (self.first, self.last) if layer is not None)
        if max(named) >= depth:
            raise ValueError(f"fuses in layer {max(named)} of a model with layers 0 to {depth - 1}")
        fuse = self.layers or range(self.first or 0, depth if self.last is None else self.last + 1)
        return tuple(self.r if layer in fuse else 0 for layer in range(depth))


def _of_its_form(value: Any, _: Any) -> Own | _Numbers:
    """So that an error is about the form that was meant, and not about each of the two."""
    if isinstance(value, Own):
        return value
    if isinstance(value, dict):
        return Own.model_validate(value)
    if isinstance(value, (list, tuple)):
        return _NUMBERS.validate_python(value)
    raise ValueError(
        "write one whole number per layer, or {from: 5, r: 9}, {to: 18, r: 9}, {layers: [1, 3], r: 14} or "
        "{like: upper, method: random_merge}; "
        f"found {short(value)}"
    )


Schedule = Annotated[Own | _Numbers, WrapValidator(_of_its_form)]


def tokens_removed(own: Own | _Numbers, depth: int, tokens: int | None) -> tuple[int, ...]:
    """Tokens that go in each of `depth` layers; `tokens` as `strategy` takes them, for `like`.

    Raises ValueError if the schedule is not one for that depth.
    """
    if not isinstance(own, Own):
        return _fitting(own, depth)
    return own.written_out(depth) if own.like is None else strategy(own.like, depth, tokens)


def _fitting(numbers: tuple[int, ...], depth: int) -> tuple[int, ...]:
    if len(numbers) != depth:
        raise ValueError(f"has {count(len(numbers), 'layer')} and the model {depth}")
    return numbers
