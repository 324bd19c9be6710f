"""Vision Mamba with cross-layer token fusion: embed -> blocks -> head.

Famba-V is arXiv 2409.09808; the model is Vim's (hustvl/Vim dd0358a, vim/models_mamba.py).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor, nn

from famba.config.methods import LATE, Placement
from famba.errors import InputError
from famba.fusion import strategy
from famba.methods import draws
from famba.methods.interface import History, Method, Seen, Tokens
from famba.methods.lengths import Part, joined, split
from famba.methods.names import build
from famba.mixer import Mixer
from famba.ops import dispatch
from famba.ops.norm import rms_norm
from famba.ops.precision import autocast_dtype, without_autocast
from famba.strategies import capped, cls_index


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in the input's type and returned in the weight's."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> the same shape."""
        return self._of_sum(x, None, self.weight.dtype)[0]

    def _of_sum(self, x: Tensor, added: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return rms_norm(x, added, self.weight.to(x.dtype), self.eps, dtype)


class AddNorm(RMSNorm):
    """The norm of a stream to which the output of the layer before is added, if there is one."""

    def forward(  # type: ignore[override]
        self, stream: Tensor, output: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """(..., dim) each -> the norm of their sum in `dtype`, else the weight's, and the sum in the stream's."""
        return self._of_sum(stream, output, self.weight.dtype if dtype is None else dtype)


class Block(nn.Module):
    """Add, norm, mix: the residual stream stays in at least float32. A method reduces the tokens, where there is one.

    Famba-V's stands between the norm and the mixer, with one map for hidden states and residual (paper-facts §2, block
    placement: the released code's models_mamba.py:185-193, which it has commented out).
    """

    def __init__(self, mixer: Mixer, embed_dim: int, layer: int, r: int = 0, method: Method | None = None) -> None:
        super().__init__()
        self.norm = AddNorm(embed_dim)
        self.mixer = mixer
        self.layer, self.r = layer, r
        self.method = method
        self.looks_inside = False  # whether a method reads what this block's mixer computes
        self.aligned = False  # whether tokens are missing here whose steps the state still takes

    def counts(self, hidden: Tensor | None, residual: Tensor, tokens: Tokens, keys: Tensor) -> Tensor:
        """(B,) tokens that a threshold lets go from each sequence, at most r; arguments as for `forward`."""
        assert self.method is not None
        with torch.no_grad():
            if self.method.placement == "before":  # not called as a module: hooks are for the norm that is used
                hidden, residual = self.norm.forward(residual, hidden, None)
            assert hidden is not None
            seen = self._seen(hidden, residual, tokens, keys)
            return self.method.counts(seen).clamp_max(seen.r)

    def forward(
        self, hidden: Tensor | None, residual: Tensor, tokens: Tokens, keys: Tensor | None, r: int | None = None
    ) -> tuple[Tensor, Tensor, Tokens]:
        """hidden, residual (B, T, embed_dim) and what is known of the tokens -> the same, some of them reduced.

        `hidden` is the output of the block before; None for the first block. keys: (B,) of the images' draws,
        None where no method is. r: tokens that go where a threshold has counted them; None: the schedule's.
        """
        at = self.method.placement if self.method is not None and r != 0 else None
        if at == "input" and hidden is not None:
            hidden, residual, tokens = self._reduce(hidden, residual, tokens, keys, r)
        # tokens are matched and merged in float32; without a reduction the norm returns what the mixer computes in
        dtype = None if at == "before" else autocast_dtype(residual)
        hidden, residual = self.norm(residual, hidden, dtype)
        if at == "before":
            hidden, residual, tokens = self._reduce(hidden, residual, tokens, keys, r)
        position = tokens.history.position if self.aligned and tokens.history else None
        if at == "inside" or (self.looks_inside and position is not None):
            gated, scanned = self.mixer(hidden, True, position)
            if self.looks_inside:
                tokens = tokens._replace(scanned=scanned())
            if at == "inside":
                forward, reduced, after = self._reduce(gated[0], residual, tokens, keys, r)
                backward, _, _ = self._reduce(gated[1], residual, tokens, keys, r, direction=1)
                return self.mixer.project(forward + backward), reduced, after
            hidden = self.mixer.project(gated.sum(dim=0))
        else:
            if self.looks_inside:
                tokens = tokens._replace(scanned=self.mixer.scanned(hidden))
            hidden = self.mixer(hidden) if position is None else self.mixer(hidden, False, position)
        if at == "after":
            hidden, residual, tokens = self._reduce(hidden, residual, tokens, keys, r)
        return hidden, residual, tokens

    def _reduce(
        self,
        hidden: Tensor,
        residual: Tensor,
        tokens: Tokens,
        keys: Tensor | None,
        r: int | None = None,
        direction: int = 0,
    ) -> tuple[Tensor, Tensor, Tokens]:
        assert self.method is not None
        seen = self._seen(hidden, residual, tokens, keys, direction)
        hidden, residual, reduction = self.method(seen if r is None else replace(seen, r=r))
        return hidden, residual, tokens.after(reduction)

    def _seen(self, hidden: Tensor, residual: Tensor, tokens: Tokens, keys: Tensor | None, direction: int = 0) -> Seen:
        """What the method sees, with as many tokens to remove as the schedule says."""
        assert keys is not None
        if torch.jit.is_tracing():
            raise InputError("torch.jit.trace and torch's older ONNX export cannot follow a fusion; use torch.export")
        batch, length = hidden.shape[:2]
        cls = tokens.cls
        if not isinstance(cls, Tensor):  # filled on the device: a copy from the host cannot be captured in a CUDA graph
            cls = torch.full((batch,), cls, dtype=torch.long, device=hidden.device)
        streams = itertools.count(256 * self.layer + 128 * direction)
        uniform = lambda: draws.uniform(keys, next(streams), length)  # noqa: E731
        r = capped(self.r, length, True, None)
        return Seen(hidden, residual, cls, r, tokens.scanned, uniform, tokens.history)


class PatchEmbed(nn.Module):
    """Image -> tokens: one linear map per patch (paper-facts §3)."""

    def __init__(self, img_size: int, patch_size: int, stride: int, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.proj = nn.Conv2d(channels, embed_dim, patch_size, stride)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, img_size, img_size) -> (B, patches, embed_dim)."""
        weight = self.proj.weight
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"the model takes images (B, {weight.shape[1]}, S, S) of real numbers, got {found}")
        if images.shape[-2:] != (self.img_size, self.img_size):
            raise ValueError(f"the model takes {self.img_size} x {self.img_size} images, got {tuple(images.shape)}")
        if images.shape[1] != weight.shape[1] or images.device != weight.device:
            raise ValueError(
                f"the model takes images of {weight.shape[1]} channels on {weight.device}, got {images.shape[1]} on "
                f"{images.device}"
            )
        if images.dtype != weight.dtype and autocast_dtype(weight) is None:
            raise ValueError(f"the model takes {weight.dtype} images outside of autocast, got {images.dtype}")
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionMamba(nn.Module):
    """Vision Mamba whose layers may fuse tokens.

    Args:
        embed_dim, depth: width in channels and number of blocks.
        num_classes: outputs of the linear head.
        img_size, patch_size: pixels; the one must be a multiple of the other, unless a stride is given.
        stride: pixels between patches. Vim takes one apart from patch_size: overlapping patches, or an edge unseen.
        channels: of the images.
        d_state, d_conv, expand: of the mixers; their dt_rank is ceil(embed_dim / 16).
        cls_position: "middle" (Vim) or "head" (the released Famba-V code) of the sequence.
        fusion: a strategy's name, or tokens to fuse at each layer (`depth` integers).
        order: of the tokens after Famba-V's fusion, "sequence" or "tome" (see `famba.fusion.Match.merge`).
        method, settings, placement: what becomes of the tokens of a layer (`famba.methods`): its name, its settings,
            and where in the block it acts; None: at its own place.
        scan: backend of the selective scan (see `famba.scan`).

    The state dict is the official Vim checkpoints', name by name. `key`, a buffer that is not in it, is the seed of
    random methods in training; in an evaluation an image's draws follow from its pixels. Raises InputError where sizes
    do not fit.
    """

    key: Tensor

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_classes: int = 1000,
        img_size: int = 224,
        patch_size: int = 16,
        stride: int | None = None,
        channels: int = 3,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        cls_position: str = "middle",
        fusion: str | Sequence[int] = "baseline",
        order: str = "sequence",
        method: str = "famba_v",
        settings: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {"embed_dim": embed_dim, "depth": depth, "num_classes": num_classes, "patch_size": patch_size}
        sizes |= {"channels": channels, "d_state": d_state, "d_conv": d_conv, "expand": expand}
        stride, given = (patch_size, {}) if stride is None else (stride, {"stride": stride})
        for name, size in (sizes | given | {"img_size": img_size}).items():
            if not isinstance(size, Integral):
                raise InputError(f"{name} must be a whole number, found {size!r}")
            if name != "img_size" and size < 1:
                raise InputError(f"{name} must be at least 1, found {size}")
        if img_size < patch_size or (not given and img_size % patch_size):
            raise InputError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
        if cls_position not in ("middle", "head"):
            raise InputError(f"cls_position must be 'middle' or 'head', found {cls_position!r}")
        if order not in ("sequence", "tome"):
            raise InputError(f"order must be 'sequence' or 'tome', found {order!r}")
        if not isinstance(settings, Mapping | None):
            raise InputError(f"settings are a mapping of names to values, found {settings!r}")
        dispatch.require_known(scan)
        settings = dict(settings or {}) | ({"order": order} if order != "sequence" else {})
        if not isinstance(fusion, Iterable):
            raise InputError(f"fusion is the name of a strategy or one whole number per layer, found {fusion!r}")
        self.schedule = strategy(fusion, depth) if isinstance(fusion, str) else tuple(fusion)
        if len(self.schedule) != depth or any(not isinstance(r, Integral) or r < 0 for r in self.schedule):
            raise InputError(f"fusion needs {depth} whole numbers, one per layer, none below 0; found {self.schedule}")
        patches = ((img_size - patch_size) // stride + 1) ** 2
        self.cls_index = cls_index(patches, cls_position)
        self.patch_embed = PatchEmbed(img_size, patch_size, stride, channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, embed_dim))
        self.layers = nn.ModuleList(
            Block(
                Mixer(embed_dim, d_state, d_conv, expand, backend=scan),
                embed_dim,
                layer,
                r,
                build(method, settings, placement) if r else None,
            )
            for layer, r in enumerate(self.schedule)
        )
        self._settle(method, settings)
        self.register_buffer("key", torch.zeros((), dtype=torch.long), persistent=False)
        self.norm_f = RMSNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Vim's initialisation (models_mamba.py:_init_weights and segm_init_weights; paper-facts §3)."""
        projection = self.patch_embed.proj
        # LeCun normal, truncated at two standard deviations; 0.8796 restores the variance that the truncation takes
        std = math.sqrt(1 / projection.weight[0].numel()) / 0.87962566103423978
        nn.init.trunc_normal_(projection.weight, std=std, a=-2 * std, b=2 * std)
        for tensor in (self.head.weight, self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(tensor, std=0.02)
        for layer in (projection, self.head):
            nn.init.zeros_(cast(Tensor, layer.bias))
        for block in self.blocks:
            block.mixer.reset_parameters(depth=len(self.layers))

    @property
    def blocks(self) -> list[Block]:
        """The layers, by their type."""
        return cast("list[Block]", list(self.layers))

    def _settle(self, name: str, settings: Mapping[str, Any]) -> None:
        """What the methods ask of the model as a whole. Raises InputError where it cannot be."""
        methods = [block.method for block in self.blocks if block.method is not None]
        self.varies = any(method.threshold is not None for method in methods)
        if self.varies and ("threshold" not in settings or methods[0].placement in LATE):
            raise InputError(
                f"method {name}: a threshold is a setting called threshold, and counts at placement before or input"
            )
        first = self.blocks[0].method
        early = first is not None and first.placement in ("input", "before")
        if first is not None and early and (first.placement == "input" or first.needs_scanned):
            raise InputError(f"method {name} acts on what the mixer before has put out, and layer 0 has none before it")
        if self.cls_index and any(method.placement == "inside" for method in methods):
            raise InputError(f"method {name} acts inside the mixer, per direction: it needs cls_position 'head'")
        aligned = any(method.aligns_state for method in methods)
        self.has_history = aligned or any(method.needs_history for method in methods)
        gone = False  # whether the mixer of the layer lacks tokens
        for block, following in itertools.zip_longest(self.blocks, self.blocks[1:]):
            own, other = block.method, following.method if following else None
            block.looks_inside = (own is not None and own.needs_scanned and own.placement in LATE) or (
                other is not None and other.needs_scanned and other.placement not in LATE
            )
            gone = gone or (own is not None and own.placement not in LATE)
            block.aligned = aligned and gone
            gone = gone or own is not None

    @property
    def method(self) -> Method | None:
        """One of its methods, which differ in nothing but their layer; None if no layer reduces tokens."""
        return next((block.method for block in self.blocks if block.method is not None), None)

    @property
    def scheduled_tokens(self) -> tuple[int, ...]:
        """Tokens that each layer's mixer is to see, then the final count; where a threshold decides, the fewest."""
        tokens, trace = self.pos_embed.shape[1], []
        for block in self.blocks:
            gone = capped(block.r, tokens, True, None)
            late = block.method is not None and block.method.placement in LATE
            trace.append(tokens if late else tokens - gone)
            tokens -= gone
        return (*trace, tokens)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, channels, img_size, img_size) -> logits (B, num_classes)."""
        residual, tokens, keys = self._embedded(images)
        if self.varies:
            token, _ = self._by_length(residual, tokens, keys)
        else:
            out: Tensor | None = None
            for block in self.blocks:
                out, residual, tokens = block(out, residual, tokens, keys)
            token = _class_token(out, residual, tokens)
        return self.head(self.norm_f(token).to(self.head.weight.dtype))

    def lengths(self, images: Tensor) -> Tensor:
        """images as for `forward` -> (B, depth + 1) int64: tokens that each layer's mixer sees, then the last count.

        Of a model in which a threshold decides how many tokens go: measured, image by image.
        """
        return self._by_length(*self._embedded(images))[1]

    def _by_length(self, residual: Tensor, tokens: Tokens, keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """The class token of each image (B, C), and `lengths`."""
        batch, device = len(residual), residual.device
        assert keys is not None
        cls = torch.full((batch,), self.cls_index, dtype=torch.long, device=device)
        parts = [Part(torch.arange(batch, device=device), None, residual, tokens._replace(cls=cls), keys)]
        lengths = torch.zeros(batch, len(self.layers) + 1, dtype=torch.long, device=device)
        for layer, block in enumerate(self.blocks):
            done = []
            for part in parts:
                counted = [(0, part)] if block.method is None else split(part, block.counts(*part[1:]))
                for r, one in counted:
                    out, stream, after = block(*one[1:], r)
                    lengths[one.images, layer:] = out.shape[1]
                    done.append(Part(one.images, out, stream, after, one.keys))
            parts = joined(done)
        order = torch.cat([part.images for part in parts]).argsort()
        return torch.cat([_class_token(part.out, part.residual, part.tokens) for part in parts])[order], lengths

    def _embedded(self, images: Tensor) -> tuple[Tensor, Tokens, Tensor | None]:
        """images as for `forward` -> the residual stream (B, T, C) before the first block, its tokens, keys (B,)."""
        hidden = self.patch_embed(images)  # (B, patches, C)
        cls_token = self.cls_token.expand(hidden.shape[0], -1, -1)
        with without_autocast(hidden.device.type):
            hidden = torch.cat([hidden[:, : self.cls_index], cls_token, hidden[:, self.cls_index :]], dim=1)
        hidden = hidden + self.pos_embed  # (B, T, C)
        residual = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        history = None
        if self.has_history:
            position = torch.arange(residual.shape[1], device=residual.device).expand(residual.shape[0], -1)
            history = History(position, torch.ones_like(position, dtype=torch.float32))
        tokens = Tokens(self.cls_index, history)
        keys = None
        if self.method is not None:
            keys = draws.by_place(self.key, images.shape[0]) if self.training else draws.by_pixels(images)
        return residual, tokens, keys


def _class_token(out: Tensor | None, residual: Tensor, tokens: Tokens) -> Tensor:
    """(B, C): it alone goes on; the norm is per token, so it may be taken first."""
    row, cls = torch.arange(residual.shape[0], device=residual.device), tokens.cls
    return residual[row, cls] if out is None else residual[row, cls] + out[row, cls]


def vim_tiny(
    num_classes: int = 100,
    fusion: str | Sequence[int] = "baseline",
    cls_position: str = "middle",
    img_size: int = 224,
    patch_size: int = 16,
    scan: str = "auto",
    **kwargs: Any,
) -> VisionMamba:
    """Vim-Ti: 192 channels, 24 layers; 6,974,308 parameters at 100 classes. See `VisionMamba` for the arguments."""
    return VisionMamba(
        embed_dim=192,
        depth=24,
        num_classes=num_classes,
        fusion=fusion,
        cls_position=cls_position,
        img_size=img_size,
        patch_size=patch_size,
        scan=scan,
        **kwargs,
    )


def vim_small(
    num_classes: int = 100,
    fusion: str | Sequence[int] = "baseline",
    cls_position: str = "middle",
    img_size: int = 224,
    patch_size: int = 16,
    scan: str = "auto",
    **kwargs: Any,
) -> VisionMamba:
    """Vim-S: 384 channels, 24 layers; 25,450,084 parameters at 100 classes. See `VisionMamba` for the arguments."""
    return VisionMamba(
        embed_dim=384,
        depth=24,
        num_classes=num_classes,
        fusion=fusion,
        cls_position=cls_position,
        img_size=img_size,
        patch_size=patch_size,
        scan=scan,
        **kwargs,
    )
