"""Intermediates that the backward pass recomputes instead of saving them.

The convolution's output and delta are half of what a Mamba layer would save, and cheap to compute: mamba's fused kernel
(state-spaces/mamba, selective_scan_interface.py: `checkpoint_lvl=1`) recomputes the same two. Done here with autograd's
hooks on saved tensors, it serves every scan backend.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Function = Callable[[], Tensor]


class Recompute:
    """Within the context, the result of a function is not saved for the backward pass but recomputed there.

        with Recompute() as recompute:
            x = recompute(lambda: conv(...))

    Only what the lambda closes over is saved. It must return the same values when it is called again.
    """

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}  # by address of the storage object
        self._hooks = saved_tensors_hooks(self._pack, _unpack)

    def __call__(self, function: Function, made: Tensor | None = None) -> Tensor:
        """function(), or `made` where it is there already; called again when the backward pass asks for the tensor."""
        tensor = function() if made is None else made
        if torch.is_grad_enabled():
            self._sources[tensor.untyped_storage()._cdata] = _Source(function, tensor.device.type)
        return tensor

    def __enter__(self) -> Recompute:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._sources.clear()  # an address may belong to another tensor from here on

    def _pack(self, tensor: Tensor) -> Any:
        source = self._sources.get(tensor.untyped_storage()._cdata)
        if source is None:
            return tensor
        source.uses += 1
        return source, tensor.shape, tensor.stride(), tensor.storage_offset()


class _Source:
    """How to recompute a tensor, and the tensor itself between its first and its last use in the backward pass."""

    def __init__(self, function: Function, device: str) -> None:
        self._function = function
        # the backward pass runs outside of autocast, but the same values come out of the same types only
        self._autocast = (
            (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
            if torch.amp.is_autocast_available(device)
            else None
        )
        self._tensor: Tensor | None = None
        self._taken = 0
        self.uses = 0

    def take(self) -> Tensor:
        if self._tensor is None:
            with torch.no_grad(), torch.autocast(*self._autocast) if self._autocast else nullcontext():
                self._tensor = self._function()
        tensor = self._tensor
        self._taken += 1
        if self._taken == self.uses:
            self._tensor, self._taken = None, 0
        return tensor


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    source, shape, stride, offset = packed
    return source.take().as_strided(shape, stride, offset)
