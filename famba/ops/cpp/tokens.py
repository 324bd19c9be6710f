"""Norm, matching and merging in C++ (norm.cpp, matching.cpp, merging.cpp); see `types.Backend`.

The kernels read float32, and bfloat16 where it is added or merged; the reference takes the other types. Results do not
depend on the number of threads.
"""

import ctypes

import torch
from torch import Tensor

from famba.ops import reference
from famba.ops.cpp.build import DTYPES, library
from famba.ops.memory import address, sizes

_NORM_SLICES = 32  # of the rows, each with a sum of its own for the weight's gradient


def _struct(name: str, **kinds: str) -> type[ctypes.Structure]:
    """A struct of those files: names of its fields by their kind, in the order of both."""
    types = {"sizes": ctypes.c_int64, "real": ctypes.c_double, "pointers": ctypes.c_void_p}
    fields = [(field, types[kind]) for kind, names in kinds.items() for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_NormArgs = _struct(
    "NormArgs",
    sizes="rows dim slices threads bf16",
    real="eps",
    pointers="x weight added total out rstd partial dx dweight",
)
_MatchArgs = _struct("MatchArgs", sizes="batch tokens dim r threads", pointers="metric cls source target kept tome")
_GroupArgs = _struct("GroupArgs", sizes="batch tokens r", pointers="places source target cls group cls_after size")
_MergeArgs = _struct("MergeArgs", sizes="batch tokens r dim bf16 threads", pointers="places source group size x out")


def _run(name: str, args: ctypes.Structure) -> None:
    """Raises ValueError where the kernel finds that an index leads outside of its sequence; nothing is done then."""
    if getattr(library(), name)(ctypes.byref(args)):
        raise ValueError(f"{name}: an index lies outside of its sequence")


def norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    if x.dtype != torch.float32 or not (added is None or added.dtype in DTYPES):
        return reference.norm(x, added, weight, eps, dtype)
    x, weight = x.contiguous(), weight.contiguous()
    total = x
    if added is not None:
        added = added.contiguous()
        total = torch.empty_like(x)
    out, rstd = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
    real, shape, other = torch.float32, x.shape, torch.float32 if added is None else _streamed(added)
    pointers = (
        address(x, real, shape), address(weight, real, shape[-1:]), address(added, other, shape),
        address(total, real, shape), address(out, real, shape), address(rstd, real, (*shape[:-1], 1)),
    )  # fmt: skip
    bf16 = other == torch.bfloat16
    _run("norm_forward", _NormArgs(rstd.numel(), shape[-1], 1, torch.get_num_threads(), bf16, eps, *pointers))
    return out.to(dtype), rstd, total


def norm_backward(
    dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    if total.dtype != torch.float32:
        return reference.norm_backward(dout, dtotal, total, weight, rstd, added_dtype)
    dout, total, weight = dout.float().contiguous(), total.contiguous(), weight.contiguous()
    dtotal = None if dtotal is None else dtotal.float().contiguous()
    dx, dweight = torch.empty_like(total), torch.empty_like(weight)
    rows, dim = rstd.numel(), total.shape[-1]
    partial = total.new_empty(min(_NORM_SLICES, rows), dim)
    slices = len(partial)
    real, shape = torch.float32, total.shape
    pointers = (
        address(total, real, shape), address(weight, real, (dim,)), address(dtotal, real, shape), None,
        address(dout, real, shape), address(rstd, real, (*shape[:-1], 1)), address(partial, real, (slices, dim)),
        address(dx, real, shape), address(dweight, real, (dim,)),
    )  # fmt: skip
    _run("norm_backward", _NormArgs(rows, dim, slices, torch.get_num_threads(), 0, 0.0, *pointers))
    return dx, dx.to(added_dtype), dweight


def match(metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if metric.dtype == torch.float64:
        return reference.match(metric, r, cls)
    batch, tokens, dim = sizes(metric, 3)
    _expect_fused(r, tokens // 2)
    metric = metric.contiguous()
    cls = None if cls is None else cls.contiguous()
    widths = (r, r, tokens - r, tokens - r)
    source, target, kept, tome = (torch.empty(batch, width, dtype=torch.long, device=metric.device) for width in widths)
    pointers = (
        address(t, torch.long, (batch, width)) for t, width in zip((source, target, kept, tome), widths, strict=True)
    )
    numbers = (batch, tokens, dim, r, torch.get_num_threads())
    inputs = address(metric, torch.float32, (batch, tokens, dim)), address(cls, torch.long, (batch,))
    _run("match_tokens", _MatchArgs(*numbers, *inputs, *pointers))
    return source, target, kept, tome


def groups(
    places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    batch, remaining = sizes(places, 2)
    r = tokens - remaining
    _expect_fused(r, tokens - 1)
    places, source, target = places.contiguous(), source.contiguous(), target.contiguous()
    cls = None if cls is None else cls.contiguous()
    group = torch.empty(batch * tokens, dtype=torch.long, device=places.device)
    size = torch.empty(batch * remaining, 1, dtype=torch.float32, device=places.device)
    after = None if cls is None else torch.empty_like(cls)
    inputs = (
        address(places, torch.long, (batch, remaining)), address(source, torch.long, (batch, r)),
        address(target, torch.long, (batch, r)), address(cls, torch.long, (batch,)),
    )  # fmt: skip
    outputs = (
        address(group, torch.long, (batch * tokens,)), address(after, torch.long, (batch,)),
        address(size, torch.float32, (batch * remaining, 1)),
    )  # fmt: skip
    _run("group_tokens", _GroupArgs(batch, tokens, r, *inputs, *outputs))
    return group, size, after


def merge(x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
    if x.dtype not in DTYPES:
        return reference.merge(x, places, source, group, size)
    x, places, source = x.contiguous(), places.contiguous(), source.contiguous()
    batch, tokens, dim = sizes(x, 3)
    remaining, kind = sizes(places, 2)[1], _streamed(x)
    r = tokens - remaining
    _expect_fused(r, tokens - 1)
    out = x.new_empty(batch, remaining, dim)
    pointers = (
        address(places, torch.long, (batch, remaining)), address(source, torch.long, (batch, r)),
        address(group, torch.long, (batch * tokens,)), address(size, torch.float32, (batch * remaining, 1)),
        address(x, kind, (batch, tokens, dim)), address(out, kind, (batch, remaining, dim)),
    )  # fmt: skip
    numbers = (batch, tokens, r, dim, kind == torch.bfloat16, torch.get_num_threads())
    _run("merge_forward", _MergeArgs(*numbers, *pointers))
    return out


def merge_backward(dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
    if dout.dtype not in DTYPES:
        return reference.merge_backward(dout, group, size, tokens)
    dout = dout.contiguous()
    batch, remaining, dim = sizes(dout, 3)
    kind = _streamed(dout)
    _expect_fused(tokens - remaining, tokens - 1)
    dx = dout.new_empty(batch, tokens, dim)
    pointers = (
        None, None, address(group, torch.long, (batch * tokens,)), address(size, torch.float32, (batch * remaining, 1)),
        address(dx, kind, (batch, tokens, dim)), address(dout, kind, (batch, remaining, dim)),
    )  # fmt: skip
    numbers = (batch, tokens, tokens - remaining, dim, kind == torch.bfloat16, torch.get_num_threads())
    _run("merge_backward", _MergeArgs(*numbers, *pointers))
    return dx


def _expect_fused(r: int, most: int) -> None:
    if not 0 <= r <= most:
        raise ValueError(f"{r} tokens to fuse, expected 0 to {most}")


def _streamed(x: Tensor) -> torch.dtype:
    """The type of x, which is one that the kernels read; float32, which `address` then refuses, for any other."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
