"""A schedule in an experiment file: one whole number per layer, or the layers that fuse and their number of tokens."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, WrapValidator, model_validator

from famba.config.settings import Count, Whole
from famba.config.validation import Strict, short
from famba.text import count

_Numbers = tuple[Whole, ...]
_NUMBERS = TypeAdapter(_Numbers)


class Layers(Strict):
    """`r` tokens in each of these layers, none in the others. Layers are counted from 0, `from` and `to` included.

    Without `from` they begin at the first layer, without `to` they end with the model's last. Unlike a list, it fits
    models of any depth that has these layers.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    r: Count
    layers: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    first: Annotated[Whole | None, Field(alias="from")] = None
    last: Annotated[Whole | None, Field(alias="to")] = None

    @model_validator(mode="after")
    def _one_set_of_layers(self) -> Layers:
        ends = (self.first, self.last)
        if (self.layers is None) == (ends == (None, None)):
            raise ValueError("name the layers that fuse either by `from` and `to` (or one of them) or by `layers`")
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError("layers has a value twice")
        if self.first is not None and self.last is not None and self.first > self.last:
            raise ValueError(f"from {self.first} is after to {self.last}")
        return self

    def written_out(self, depth: int) -> tuple[int, ...]:
        """Tokens to fuse in each of `depth` layers. Raises ValueError where the model has no such layer."""
        named = self.layers or tuple(layer for layer in (self.first, self.last) if layer is not None)
        if max(named) >= depth:
            raise ValueError(f"fuses in layer {max(named)} of a model with layers 0 to {depth - 1}")
        fuse = self.layers or range(self.first or 0, depth if self.last is None else self.last + 1)
        return tuple(self.r if layer in fuse else 0 for layer in range(depth))


def _of_its_form(value: Any, _: Any) -> Layers | _Numbers:
    """So that an error is about the form that was meant, and not about each of the two."""
    if isinstance(value, Layers):
        return value
    if isinstance(value, dict):
        return Layers.model_validate(value)
    if isinstance(value, (list, tuple)):
        return _NUMBERS.validate_python(value)
    raise ValueError(
        "write one whole number per layer, or {from: 5, r: 9}, {to: 18, r: 9} or {layers: [1, 3], r: 14}; "
        f"found {short(value)}"
    )


Schedule = Annotated[Layers | _Numbers, WrapValidator(_of_its_form)]


def written_out(schedule: Layers | _Numbers, depth: int) -> tuple[int, ...]:
    """Tokens to fuse in each of `depth` layers. Raises ValueError if the schedule is not one for that depth."""
    if isinstance(schedule, Layers):
        return schedule.written_out(depth)
    if len(schedule) != depth:
        raise ValueError(f"has {count(len(schedule), 'layer')} and the model {depth}")
    return schedule
