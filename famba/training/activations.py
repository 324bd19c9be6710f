"""Bytes that a forward pass saves for the backward pass, measured."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famba.model import VisionMamba
from famba.ops.types import Autocast
from famba.training.checks import random_images


def saved_activation_bytes(
    model: VisionMamba, device: torch.device, autocast: Autocast, images: Tensor | None = None
) -> int:
    """Bytes that one more image makes the forward pass save for the backward pass.

    Weighed as the storages made in a forward pass and alive after it. The difference between batches of two images
    and one, so that what does not grow with the batch (stacked weights) drops out. `images`: the two, or one to be
    taken twice; None: random.
    """

    def saved(batch: int) -> int:
        if images is None:
            given = random_images(model, batch, device)
        else:
            given = images[[place % len(images) for place in range(batch)]]
        with _Allocations() as allocations, autocast():
            logits = model(given)  # keeps the graph alive while it is measured
            return allocations.alive() - logits.untyped_storage().nbytes()

    return saved(2) - saved(1)


class _Allocations(TorchDispatchMode):
    """Watches the storages of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive(self) -> int:
        """Bytes of those that are still referenced."""
        return sum(nbytes for storage, nbytes in self._made.values() if not storage.expired())
