"""What is checked on a model: before it trains, its tokens per layer and fusions; as it trains, that all is finite.

A loss, logit, weight or optimiser state that is not finite fails the training, before a checkpoint holds such a value
and without a row; the last checkpoint stays good.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from famba.data.loader import EvalLoader
from famba.errors import CheckFailed
from famba.methods.interface import Method, Seen
from famba.model import VisionMamba
from famba.ops.merging import Reduction
from famba.ops.types import Autocast
from famba.text import count


def random_images(model: VisionMamba, batch: int, device: torch.device) -> Tensor:
    """Random images of the model's size, from a generator of their own."""
    size, channels = model.patch_embed.img_size, model.patch_embed.proj.in_channels
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def measured_tokens(model: VisionMamba, images: Tensor) -> tuple[int, ...]:
    """Tokens that each layer's mixer really sees in a forward pass, then the final count: depth + 1 integers.

    Taken from the shapes at the mixers' inputs and the last one's output, not from the schedule.
    """
    trace: list[int] = []
    last = model.blocks[-1]
    hooks = [
        block.mixer.register_forward_pre_hook(lambda _, inputs: trace.append(inputs[0].shape[1]))
        for block in model.blocks
    ]
    hooks.append(last.register_forward_hook(lambda _, __, outputs: trace.append(outputs[1].shape[1])))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(trace)


def checked_tokens(model: VisionMamba, device: torch.device) -> tuple[int, ...]:
    """`measured_tokens`. Raises CheckFailed if they are not the schedule's.

    Where a threshold decides, the schedule is the most that goes: the images' own numbers are checked against it, and
    what comes back is the fewest that can be left. What is left of real images, `evaluate.lengths` measures.
    """
    images = random_images(model, 2, device)
    if model.varies:
        with torch.no_grad():
            check_lengths(model, model.lengths(images))
        return model.scheduled_tokens
    measured = measured_tokens(model, images)
    if measured != model.scheduled_tokens:
        raise CheckFailed(f"tokens per layer: the schedule says {model.scheduled_tokens}, the mixers see {measured}")
    return measured


def check_lengths(model: VisionMamba, lengths: Tensor) -> None:
    """Raises CheckFailed if an image (N, depth + 1) has lost more tokens in a layer than the schedule says at most."""
    before = torch.cat([torch.full_like(lengths[:, :1], model.pos_embed.shape[1]), lengths[:, :-2]], dim=1)
    gone = before - lengths[:, :-1]
    most = torch.tensor(model.schedule, device=lengths.device)
    if (wrong := ((gone < 0) | (gone > most)).nonzero()).numel():
        image, layer = wrong[0].tolist()
        raise CheckFailed(
            f"tokens per layer: image {image} loses {int(gone[image, layer])} in layer {layer}, where at most "
            f"{int(most[layer])} may go"
        )


def check_reduction(model: VisionMamba, device: torch.device) -> None:
    """Check from outside, in a forward pass, that every reduction leaves the other tokens unchanged.

    A token that is neither merged nor dropped has the same hidden state and the same residual as before, bit for bit;
    the class token is one of them; and where the method says so they keep their order. Where a source is pruned of the
    hidden states alone, its target's residual may change by itself. Checked on random images, whose tokens are all
    different. Raises CheckFailed.
    """

    def check(method: Method, inputs: tuple[Seen], outputs: tuple[Tensor, Tensor, Reduction], layer: int) -> None:
        (seen,), (hidden, residual, reduction) = inputs, outputs
        before = seen.hidden.shape[1]
        for image in range(len(hidden)):
            # equal in the first channel, then in all: those of all pairs would be gigabytes in long sequences
            now, then = (hidden[image, :, None, 0] == seen.hidden[image, :, 0]).nonzero().unbind(1)  # (T', T)
            same = (hidden[image, now] == seen.hidden[image, then]).all(dim=-1)
            now, then = now[same], then[same]
            patches = then[then != seen.cls[image]]
            alone = slice(None) if reduction.pruned is None else ~torch.isin(then, reduction.target[image])
            wrong = ""
            assert reduction.cls_after is not None
            if not ((now == reduction.cls_after[image]) & (then == seen.cls[image])).any():
                wrong = "the class token was changed"
            elif not torch.equal(residual[image, now[alone]], seen.residual[image, then[alone]]):
                wrong = "the residual stream is not reduced as the hidden states are"
            elif method.keeps_order and bool((patches.diff() <= 0).any()):
                wrong = "the tokens are not in their order"
            elif len(then) < before - 2 * seen.r:
                wrong = f"{before - len(then)} tokens differ after a reduction by {seen.r}"
            if wrong:
                raise CheckFailed(f"token reduction in layer {layer}: {wrong}")

    hooks = [
        block.method.register_forward_hook(partial(check, layer=layer))
        for layer, block in enumerate(model.blocks)
        if block.method is not None
    ]
    try:
        with torch.no_grad():
            model(random_images(model, 2, device))
    finally:
        for hook in hooks:
            hook.remove()


class FiniteCheck:
    """Raises CheckFailed, in a line that names the cell, the place and, where it can be found, the source of the value.

    Args:
        cell: its id.
        model, autocast: run once more, on the images at hand, to find the first module whose output is not finite.
    """

    def __init__(self, cell: str, model: VisionMamba, autocast: Autocast) -> None:
        self._cell, self._model, self._autocast = cell, model, autocast

    def losses(self, losses: Tensor, epoch: int, lr: Callable[[int], float], images: Iterable[Tensor]) -> None:
        """Check the losses of an epoch's steps so far, (steps,).

        lr: of a step. images: (m, 3, S, S) each, the micro-batches of the last step, whose update has not run yet.
        """
        finite = losses.isfinite()
        if finite.all():
            return
        step = int((~finite).int().argmax())
        if later := len(losses) - 1 - step:  # it has spread since, into the parameters first
            source = f"found only {count(later, 'update')} later; --check-every-step finds its source"
        else:
            found = first_not_finite(self._model, images, self._autocast)
            source = f"first not finite: {found or 'the loss itself; parameters and activations here are finite'}"
        value = losses[step].item()
        raise CheckFailed(
            f"{self._cell}: the loss is {value} at epoch {epoch}, step {step} (lr {lr(step):.3g}); {source}"
        )

    def logits(self, broken: int, tested: EvalLoader, average: bool, epoch: int, lr: float) -> None:
        """Check that an evaluation found no image with a `broken` logit. `average`: of the weights' moving average."""
        if not broken:
            return
        whose = "the moving average's" if average else "the"
        found = first_not_finite(self._model, (images for images, _ in tested), self._autocast)
        raise CheckFailed(
            f"{self._cell}: {whose} logits of {broken} of {len(tested)} test images are not finite after epoch {epoch} "
            f"(lr {lr:.3g}); first not finite: {found or 'in another process'}"
        )

    def state(self, tensors: Mapping[str, Tensor], position: str, lr: float) -> None:
        """Check all that a checkpoint would hold, by name."""
        if math.isfinite(largest_magnitude(tensors.values())):
            return
        name = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
        raise CheckFailed(f"{self._cell}: {name} is not finite after {position} (lr {lr:.3g})")


def largest_magnitude(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value in all of the tensors; NaN or infinity if one holds such a value."""
    return get_total_norm(list(tensors), norm_type=math.inf).item()


def first_not_finite(model: VisionMamba, batches: Iterable[Tensor], autocast: Autocast) -> str | None:
    """Name of the first parameter, or else the first module in running order, with a value that is not finite.

    batches: images (b, 3, S, S) each. None if all parameters are finite, and what the modules make of the images.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"parameter {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not first.isfinite().all():
                found.append(f"output of {name}")

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad(), autocast():
            for images in batches:
                model(images)
                if found:
                    return found[0]
    finally:
        for hook in hooks:
            hook.remove()
    return None
