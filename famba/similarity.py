"""Where the similar tokens of a trained model are, and which of them it fuses.

The paper's motivation for cross-layer fusion is that tokens grow alike, and not in all layers equally. Here that is
measured on what the matching itself compares. Which tokens were fused is recorded from the blocks' own fusions.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from famba.data.dataset import MEAN, STD
from famba.methods.interface import Tokens
from famba.model import VisionMamba
from famba.ops.merging import Reduction
from famba.ops.types import Autocast
from famba.results.tokens import TokenRecord

IMAGES = 64  # that similarity is averaged over
EXAMPLES = 4  # images whose groups are recorded
PAIRS_AT_ONCE = 2**26  # cosines held at a time, 256 MiB: of 4,097 tokens, all images' would take 4 GiB
MAPS = 6  # layers that get a map of all pairs, from the first to the last
EXAMPLE_SIZE = 64  # pixels per side of a recorded example, at most


def token_record(model: VisionMamba, images: Tensor, autocast: Autocast) -> TokenRecord:
    """Watch the tokens in one forward pass over the first images of (B, 3, S, S), as the model takes them: evaluated.

    Where a threshold decides how many tokens go, in one pass for each image.
    """
    model.eval()  # random methods then draw by the images
    images = images[:IMAGES]
    if model.varies and len(images) > 1:
        return _mean([token_record(model, image, autocast) for image in images.split(1)])
    watch = _Watch(model, images)
    handles = [
        handle
        for layer, block in enumerate(model.blocks)
        for handle in (
            block.register_forward_pre_hook(lambda _, inputs: watch.enter(inputs[2])),
            block.norm.register_forward_hook(lambda _, __, made, layer=layer: watch.see(layer, made[0])),
            block.register_forward_hook(lambda _, __, ___: watch.leave()),
        )
    ]
    handles += [
        block.method.register_forward_hook(lambda _, __, made: watch.follow(made[2]))
        for block in model.blocks
        if block.method is not None
    ]
    try:
        with torch.no_grad(), autocast():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return TokenRecord(
        best_match=np.array(watch.best_match),
        layers=watch.layers,
        similarity=torch.stack(watch.maps).cpu().numpy(),
        images=_pixels(images[:EXAMPLES]),
        groups=torch.stack(watch.groups, dim=1).cpu().numpy(),
        seen=len(images),
    )


def _mean(records: list[TokenRecord]) -> TokenRecord:
    """One record of several images, each with its own."""
    maps = torch.stack([torch.from_numpy(record.similarity) for record in records])
    examples = records[:EXAMPLES]
    return replace(
        records[0],
        best_match=torch.stack([torch.from_numpy(record.best_match) for record in records]).nanmean(dim=0).numpy(),
        similarity=maps.nanmean(dim=0).numpy(),
        images=np.concatenate([record.images for record in examples]),
        groups=np.concatenate([record.groups for record in examples]),
        seen=len(records),
    )


def cosines(metric: Tensor) -> Tensor:
    """(B, T, C) -> (B, T, T) cosine similarity of all pairs, in at least float32 as the matching takes it."""
    with torch.autocast(metric.device.type, enabled=False):
        metric = metric.to(torch.promote_types(metric.dtype, torch.float32))
        unit = metric / metric.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(metric.dtype).tiny)
        return unit @ unit.transpose(1, 2)


def best_match(cosine: Tensor, cls: Tensor) -> Tensor:
    """Mean over the tokens at even positions of the largest similarity to one at an odd position.

    Args:
        cosine: (B, T, T). cls: (B,) position of the class token, which takes no part on either side.

    Returns:
        (B,); NaN where nothing is left to compare.
    """
    is_cls = torch.arange(cosine.shape[1], device=cosine.device) == cls[:, None]  # (B, T)
    links = cosine.masked_fill(is_cls[:, None, :], -torch.inf)[:, ::2, 1::2]  # (B, A, B)
    if links.shape[2] == 0:
        return cosine.new_full((len(cosine),), torch.nan)
    strength = links.amax(dim=2).masked_fill(is_cls[:, ::2], torch.nan)  # (B, A)
    return strength.masked_fill(strength.isinf(), torch.nan).nanmean(dim=1)


class _Watch:
    """Follows every patch of the input through the layers of a forward pass."""

    def __init__(self, model: VisionMamba, images: Tensor) -> None:
        depth, tokens = len(model.blocks), model.pos_embed.shape[1]
        self.layers = np.unique(np.linspace(0, depth - 1, MAPS).round().astype(int))
        self.best_match: list[float] = []
        self.maps: list[Tensor] = []  # (P, P) each
        self.groups: list[Tensor] = []  # (EXAMPLES, P) each
        patches = [token for token in range(tokens) if token != model.cls_index]
        self._position = torch.tensor(patches, device=images.device).expand(len(images), -1)  # (B, P), of each patch

    def enter(self, tokens: Tokens) -> None:
        """A block is about to run."""
        self._cls, self._followed = tokens.cls, False

    def see(self, layer: int, hidden: Tensor) -> None:
        """The block's norm has returned (B, T, C): what is matched, and then fused."""
        cls = torch.as_tensor(self._cls, device=hidden.device).expand(len(hidden))
        at_once = max(1, PAIRS_AT_ONCE // hidden.shape[1] ** 2)
        best, totals, counts = [], [], []
        for some, own, position in zip(*(x.split(at_once) for x in (hidden, cls, self._position)), strict=True):
            cosine = cosines(some)
            best.append(best_match(cosine, own))
            if layer in self.layers:
                total, count = _between_patches(cosine, position)
                totals.append(total)
                counts.append(count)
        # of three tokens, in some images the class token is the only one that is odd
        of_images = torch.cat(best)
        self.best_match.append((of_images.nanmean() if of_images.isnan().any() else of_images.mean()).item())
        if layer in self.layers:
            self.maps.append(sum(totals[1:], totals[0]) / sum(counts[1:], counts[0]))

    def follow(self, reduction: Reduction) -> None:
        """The block has reduced its tokens. A method inside the mixer does so twice: the forward direction's counts."""
        if self._followed:
            return
        assert reduction.cls_after is not None
        self._followed, self._cls = True, reduction.cls_after  # at the input of a block that is before `see`
        moved = reduction.destination.gather(1, self._position.clamp_min(0))
        self._position = moved.where(self._position >= 0, -1)  # a dropped patch stays so

    def leave(self) -> None:
        """The block has run."""
        self.groups.append(_first_patch(self._position[:EXAMPLES]))


def _between_patches(cosine: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines of all pairs of patches, summed over images, and over how many images: (P, P) each.

    Args:
        cosine: (B, T, T). position: (B, P), of each patch's token, -1 where it was dropped.
    """
    batch = torch.arange(len(cosine), device=cosine.device)[:, None, None]
    at, there = position.clamp_min(0), position >= 0
    both = there[:, :, None] & there[:, None, :]
    return (cosine[batch, at[:, :, None], at[:, None, :]] * both).sum(dim=0), both.sum(dim=0)


def _first_patch(position: Tensor) -> Tensor:
    """Position of each patch's token (B, P), -1 if dropped -> the first patch that stands at the same position (B, P).

    P for dropped patches.
    """
    patches = position.shape[1]
    patch = torch.arange(patches, device=position.device).expand_as(position)
    first = position.new_full((len(position), int(position.max()) + 2), patches)
    first.scatter_reduce_(1, position + 1, patch, "amin")
    first[:, 0] = patches
    return first.gather(1, position + 1)


def _pixels(images: Tensor) -> np.ndarray:
    """Normalised (n, 3, S, S) -> (n, s, s, 3) uint8, shrunk by a whole number to EXAMPLE_SIZE at most."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    pixels = images.float() * std + mean
    shrink = -(-images.shape[-1] // EXAMPLE_SIZE)
    pixels = torch.nn.functional.avg_pool2d(pixels, shrink)
    return (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
