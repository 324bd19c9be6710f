"""What a method of token reduction sees, and what it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famba.config import Architecture
from famba.config.methods import Placement
from famba.ops.merging import Reduction
from famba.ops.reference import PAIRS
from famba.ops.types import Scanned


class History(NamedTuple):
    """Where the tokens of a sequence come from."""

    position: Tensor  # (B, T) position in the input sequence; of a group, its target's
    size: Tensor  # (B, T) input tokens in each, float32


class Tokens(NamedTuple):
    """What a block passes on beside hidden states and residual stream."""

    cls: int | Tensor  # position of the class token: one for all sequences, or (B,)
    history: History | None = None
    scanned: Scanned | None = None

    def after(self, reduction: Reduction) -> Tokens:
        """The same of the tokens that remain; what was scanned is of the tokens before, and is forgotten."""
        cls, history = reduction.cls_after, self.history
        assert cls is not None
        if history is not None:
            history = History(history.position.gather(1, reduction.kept), reduction.sizes(history.size))
        return Tokens(cls, history)


@dataclass(frozen=True, eq=False)
class Seen:
    """The tokens of a layer as a method sees them; T of them, the class token at `cls`.

    Attributes:
        hidden: (B, T, C): at placement "before", the norm's output, in float32; at "input" and "after", the output of
            the last mixer, before it is added; at "inside", one direction's gated output (B, T, D),
            and the method is asked once for each direction.
        residual: (B, T, C), at least float32.
        cls: (B,) position of the class token, int64.
        r: tokens that the schedule removes here.
        scanned: what the last mixer computed, without gradients, if the method `needs_scanned`. At "input" and
            "before" that is the mixer of the layer before, so layer 0 cannot have such a method.
        uniform: () -> (B, T) numbers in [0, 1), drawn anew at every layer and call, and in training at every step;
            in an evaluation an image has the same draws each time, in any batch.
    """

    hidden: Tensor
    residual: Tensor
    cls: Tensor
    r: int
    scanned: Scanned | None
    uniform: Callable[[], Tensor]
    history: History | None = None

    @property
    def position(self) -> Tensor:
        """(B, T) position of each token in the input sequence; of a group, its target's."""
        return self._history.position

    @property
    def size(self) -> Tensor:
        """(B, T) input tokens that each token stands for, float32."""
        return self._history.size

    @property
    def _history(self) -> History:
        if self.history is None:
            raise ValueError("a method that reads `position` or `size` must say needs_history = True")
        return self.history

    @property
    def patches(self) -> Tensor:
        """(B, T - 1) positions of all tokens but the class token, ascending."""
        places = torch.arange(self.hidden.shape[1] - 1, device=self.hidden.device)
        return places + (places >= self.cls[:, None])


class Method(nn.Module):
    """A method of token reduction: one instance in each layer that reduces tokens.

    A subclass says in `reduce` what becomes of the tokens. Its keyword arguments are the settings of an experiment.
    `famba methods test` checks what every method must keep: `Seen.r` tokens go, the class token stays as it is, the
    same tokens and draws give the same result.
    """

    placement: Placement = "before"
    """Where it acts: "input" of a block, before residual and last mixer output are added; "before" the mixer, after the
    norm (Famba-V); "inside" the mixer, per direction, after the gate; "after" the mixer."""

    needs_scanned: bool = False
    """Whether it reads `Seen.scanned`, which the mixer before then computes a second time, without gradients."""

    needs_history: bool = True
    """Whether it reads `Seen.position` or `Seen.size`."""

    aligns_state: bool = False
    """Whether the scans of later layers decay their state at the places of dropped tokens, too (ToP-ViM, HSA). It needs
    the order of the sequence, class token included."""

    keeps_order: bool = True
    """Whether the patches that remain stay in their order. The class token may move."""

    threshold: float | None = None
    """Of a method that has `counts`: the setting of that name. None: `Seen.r` tokens go from every sequence."""

    def counts(self, seen: Seen) -> Tensor:
        """(B,) int64, how many tokens are above the threshold in each sequence, of which `Seen.r` go at most.

        Each sequence for itself. `reduce` is then called for sequences of one number, which is their `Seen.r`.
        """
        raise NotImplementedError(f"{type(self).__name__} has a threshold and no `counts`")

    @abstractmethod
    def reduce(self, seen: Seen) -> Reduction:
        """What becomes of each token. No gradient flows through the choice."""

    def flops(self, tokens: int, r: int, architecture: Architecture) -> int:
        """Floating-point operations in which `reduce` compares the tokens of one image, a multiply-add counted as two.

        0 unless a method says otherwise. Scores of single tokens and sorts are not counted, nor are norms elsewhere.
        """
        return 0

    def width(self, architecture: Architecture) -> int:
        """Channels of `Seen.hidden`."""
        return architecture.embed_dim * (architecture.expand if self.placement == "inside" else 1)

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        """hidden and residual, reduced, and how. A module, so that a forward hook sees what has been done."""
        with torch.no_grad():
            reduction = self.reduce(seen)
        hidden, residual = reduction.streams(seen.hidden, seen.residual)
        return hidden, residual, reduction


def merge(seen: Seen, source: Tensor, target: Tensor, weight: Tensor | None = None) -> Reduction:
    """The reduction in which each source (B, s) joins its target (B, s); all other tokens keep their order."""
    return Reduction(_others(seen, source), source, target, seen.hidden.shape[1], seen.cls, weight)


def drop(seen: Seen, places: Tensor) -> Reduction:
    """The reduction that drops the tokens at `places` (B, s); the others keep their order."""
    none = places[:, :0]
    return Reduction(_others(seen, places), none, none, seen.hidden.shape[1], seen.cls)


def compared(sources: int, targets: int, channels: int) -> int:
    """Floating-point operations of the cosines of each source with each target."""
    return 2 * sources * targets * channels


def rows_at(x: Tensor, places: Tensor) -> Tensor:
    """x (B, T, C) at places (B, s) -> (B, s, C)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def most_similar(x: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of each source the target with the largest cosine, the first of equals.

    Args:
        x: (B, T, C). source, target: (B, s), (B, t) positions in it.

    Returns:
        The target's position (B, s), and the cosine (B, s), in at least float32; -inf where it is not a number.
    """
    with torch.autocast(x.device.type, enabled=False):
        unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        targets = rows_at(unit, target).mT
        blocks = []
        for part in source.split(max(1, PAIRS // max(1, target.shape[1])), dim=1):  # memory stays linear in tokens
            cosine = rows_at(unit, part) @ targets  # (B, s, t)
            blocks.append(cosine.where(cosine.isfinite(), -torch.inf).max(dim=-1))
    strength, index = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return target.gather(1, index), strength


def _others(seen: Seen, places: Tensor) -> Tensor:
    """(B, T - s) positions that are not in `places`, ascending."""
    batch, tokens = seen.hidden.shape[:2]
    position = torch.arange(tokens, device=places.device).expand(batch, -1)
    # sorted to the end rather than masked out: a mask's result has no static shape
    return position.scatter(1, places, tokens).sort(dim=1).values[:, : tokens - places.shape[1]]
