"""What every method must keep, checked on made-up tokens without a model or a training.

The tokens pass through a few layers, so that the class token stands at another place in every sequence and tokens stand
for groups, as in a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from famba.errors import CheckFailed
from famba.methods import made_up
from famba.methods.interface import History, Method, Seen, Tokens
from famba.ops.merging import Reduction
from famba.strategies import capped, cls_index
from famba.text import count

LAYERS = (1, 2, 3)  # layer 0 cannot have every method: no mixer has run before
SIZES = (2, 3, 4, 5, 10, 17, 65, 197)  # tokens, class token included
TRIED_AGAIN = (5, 17, 65)  # of these, where a check calls the method once more


@dataclass(frozen=True, eq=False)
class Applied:
    """A method applied to the tokens of a layer."""

    where: str
    seen: Seen
    hidden: Tensor
    residual: Tensor
    reduction: Reduction


def check(method: Method, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, str]]:
    """Each check's name and what it has been done on, as soon as it has passed.

    Args:
        dtype: of the hidden states, as autocast has them: float32 or bfloat16.

    Raises CheckFailed: the check that is broken, the layer, and numbers.
    """
    applied: list[Applied] = []
    broken = None
    try:
        for one in _everywhere(method, device, dtype):
            applied.append(one)
    except CheckFailed as error:
        broken = error
    for name in ("runs", "counts", "tokens", "class token", "unchanged"):
        if broken and str(broken).startswith(f"{name}:"):
            raise broken
        yield name, f"{len(applied)} reductions, from {SIZES[0]} to {SIZES[-1]} tokens"
    again = [one for one in applied if one.seen.hidden.shape[1] in TRIED_AGAIN]
    own = (("threshold", _counts),) if method.threshold is not None else ()
    for name, problem in (("repeat", _repeat), ("batch", _batch), *own, ("gradients", _gradients)):
        for one in again:
            if said := problem(method, one):
                raise CheckFailed(f"{name}: {one.where}: {said}")
        yield name, f"{len(again)} reductions"


def wrong_counts(reduction: Reduction, tokens: int, batch: int, r: int) -> str:
    """What does not have the declared size, with numbers; nothing if all has."""
    if not isinstance(reduction, Reduction):
        return f"`reduce` returns {type(reduction).__name__}, not a Reduction"
    if reduction.tokens != tokens:
        return f"`tokens` is {reduction.tokens}, but {tokens} were seen"
    pairs = reduction.source.shape[-1]
    for name, x, shape in (
        ("kept", reduction.kept, (batch, tokens - r)),
        ("source", reduction.source, (batch, pairs)),
        ("target", reduction.target, (batch, pairs)),
    ):
        if x.dtype != torch.long or x.shape != shape:
            return f"`{name}` is {_kind(x)}, expected int64 {shape}, as {r} of {tokens} tokens are to go"
    if pairs > r:
        return f"there are {pairs} sources, but {r} of {tokens} tokens are to go"
    weight, pruned = reduction.weight, reduction.pruned
    if pruned is not None and (pruned.shape != (batch, pairs) or pruned.dtype != torch.bool):
        return f"`pruned` is {_kind(pruned)}, expected bool {(batch, pairs)}"
    return "" if weight is None else _wrong_weight(weight, (batch, tokens))


def wrong_tokens(reduction: Reduction, cls: Tensor, keeps_order: bool) -> str:
    """Which position is not a valid one of `kept`, `source` or `target`; nothing if all are."""
    columns = (x.tolist() for x in (reduction.kept, reduction.source, reduction.target, cls))
    for image, (kept, source, target, place) in enumerate(zip(*columns, strict=True)):
        for name, places in (("kept", kept), ("source", source), ("target", target)):
            if outside := [token for token in places if not 0 <= token < reduction.tokens]:
                return f"image {image}: `{name}` names token {outside[0]} of {reduction.tokens}"
            if name != "target" and (twice := _twice(places)) is not None:
                return f"image {image}: `{name}` names token {twice} twice"
        if both := set(kept) & set(source):
            return f"image {image}: token {min(both)} is kept and a source"
        if gone := set(target) - set(kept):
            return f"image {image}: a source joins token {min(gone)}, which is not kept"
        patches = [token for token in kept if token != place]
        if keeps_order and patches != sorted(patches):
            return f"image {image}: the patches leave their order; a method that means it says keeps_order = False"
    return ""


def wrong_class_token(reduction: Reduction, cls: Tensor, method: Method) -> str:
    """What happens to the class token that must not; nothing if it is safe."""
    if reduction.cls is None or not torch.equal(reduction.cls, cls):
        return "`cls` of the reduction is not the position that the method was given"
    for image, place in enumerate(cls.tolist()):
        kept = reduction.kept[image].tolist()
        if place not in kept:
            return f"image {image}: the class token, {place}, is not kept"
        if place in reduction.target[image].tolist():
            return f"image {image}: a source joins the class token, {place}"
        if method.placement == "inside" and kept[0] != place:
            return f"image {image}: inside the mixer it must stay the first; it is at {kept.index(place)}"
        if method.aligns_state and kept != sorted(kept):
            return f"image {image}: aligns_state asks for the order of the sequence, class token included"
    return ""


def wrong_streams(seen: Seen, hidden: Tensor, residual: Tensor, reduction: Reduction) -> str:
    """Which token that no other joins has changed, in which stream; nothing if all have the same bits."""
    joined = torch.zeros_like(reduction.destination, dtype=torch.bool).scatter(1, reduction.target, True)
    alone = ~joined.gather(1, reduction.kept)  # (B, T'): the class token is one of them
    for name, before, after in (("hidden", seen.hidden, hidden), ("residual", seen.residual, residual)):
        shape = (*reduction.kept.shape, before.shape[2])
        if after.shape != shape or after.dtype != before.dtype:
            return f"the {name} stream is {_kind(after)}, expected {str(before.dtype).removeprefix('torch.')} {shape}"
        same = (before.gather(1, reduction.kept[..., None].expand_as(after)) == after).all(dim=-1)
        if (alone & ~same).any():
            image, place = (alone & ~same).nonzero()[0].tolist()
            token = int(reduction.kept[image, place])
            which = "the class token" if token == seen.cls[image] else f"token {token}, which no other joins,"
            return f"image {image}: {which} is not what it was in the {name} stream"
    return ""


def _wrong_weight(weight: Tensor, shape: tuple[int, int]) -> str:
    if weight.shape != shape or not weight.is_floating_point():
        return f"`weight` is {_kind(weight)}, expected floating-point numbers {shape}"
    return "" if (weight.isfinite() & (weight > 0)).all() else "`weight` has a number that is not positive and finite"


def _everywhere(method: Method, device: torch.device, dtype: torch.dtype) -> Iterator[Applied]:
    """Every length, place of the class token and number to remove, extremes included, through the layers."""
    for tokens in SIZES:
        places = {cls_index(tokens - 1, position) for position in ("head", "middle")}
        for cls in sorted(places) if method.placement != "inside" else [0]:
            for r in sorted({1, tokens // 4, tokens // 2, tokens - 1, 10 * tokens} - {0}):
                yield from _through_layers(method, device, dtype, tokens, cls, r)


def _through_layers(
    method: Method, device: torch.device, dtype: torch.dtype, tokens: int, cls: int, r: int
) -> Iterator[Applied]:
    generator = torch.Generator().manual_seed(1000 * tokens + r)
    position = torch.arange(tokens, device=device).expand(made_up.BATCH, -1)
    history = History(position, torch.ones_like(position, dtype=torch.float32))
    place = torch.full((made_up.BATCH,), cls, device=device)
    for layer in LAYERS:
        seen = made_up.tokens_for(method, generator, dtype, layer, place, history)
        where = f"layer {layer}, {count(seen.hidden.shape[1], 'token')}, class token at {place.tolist()}, r = {r}"
        one = _apply(method, seen, r, where)
        yield one
        for value in (1, 0) if layer == LAYERS[0] else ():  # equal tokens, and tokens of zeros
            equal = made_up.filled(seen, value)
            yield _apply(method, equal, r, f"{where}, every number {value}")
        after = Tokens(place, history).after(one.reduction)
        assert isinstance(after.cls, Tensor)
        assert after.history is not None
        place, history = after.cls, after.history


def _apply(method: Method, seen: Seen, r: int, where: str) -> Applied:
    """The method's decision is checked before its arithmetic is done. Raises CheckFailed."""

    def expect(check: str, problem: str) -> None:
        if problem:
            raise CheckFailed(f"{check}: {where}: {problem}")

    batch, tokens = seen.hidden.shape[:2]
    given = made_up.each(seen, lambda x, _: x.clone())
    try:
        r = capped(r, tokens, True, None)
        seen, given = replace(seen, r=r), replace(given, r=r)
        with torch.no_grad():
            reduction = method.reduce(made_up.anew(seen))
        expect("counts", wrong_counts(reduction, tokens, batch, r))
        expect("tokens", wrong_tokens(reduction, seen.cls, method.keeps_order))
        expect("class token", wrong_class_token(reduction, seen.cls, method))
        hidden, residual, reduction = method(made_up.anew(seen))
        expect("unchanged", wrong_streams(seen, hidden, residual, reduction))
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(f"runs: {where}: {type(error).__name__}: {error}") from error
    before, now = made_up.tensors(given), made_up.tensors(seen)
    if not all(torch.equal(a, b) for a, b in zip(before, now, strict=True)):
        expect("unchanged", "the method writes into the tensors that it is given")
    return Applied(where, seen, hidden, residual, reduction)


def _repeat(method: Method, one: Applied) -> str:
    """The same tokens and draws, with torch's own generators in another state."""
    with torch.random.fork_rng([one.seen.hidden.device] if one.seen.hidden.is_cuda else []), torch.no_grad():
        torch.manual_seed(20260)
        hidden, residual, reduction = method(made_up.anew(one.seen))
    if _decided(reduction) != _decided(one.reduction):
        return "the same tokens and draws give another result; random numbers come from `Seen.uniform` alone"
    if not torch.equal(hidden, one.hidden) or not torch.equal(residual, one.residual):
        return "the same decision gives other tokens"
    return ""


def _batch(method: Method, one: Applied) -> str:
    """Image 1 among copies of itself. Its draws depend on its place in the batch, which is the same."""
    copies = made_up.each(one.seen, lambda x, dim: x.narrow(dim, 1, 1).expand_as(x).clone())
    with torch.no_grad():
        reduction = method.reduce(made_up.anew(copies))
    if _decided(reduction)[1] != _decided(one.reduction)[1]:
        return "image 1 is reduced otherwise when the other images of its batch are others"
    return ""


def _counts(method: Method, one: Applied) -> str:
    """How many tokens a threshold lets go: a number for each image, whatever the other images are."""
    with torch.no_grad():
        counts = method.counts(made_up.anew(one.seen))
        copies = made_up.each(one.seen, lambda x, dim: x.narrow(dim, 1, 1).expand_as(x).clone())
        again = method.counts(made_up.anew(copies))
    batch, tokens = one.seen.hidden.shape[:2]
    if counts.dtype != torch.long or counts.shape != (batch,):
        return f"`counts` is {_kind(counts)}, expected int64 {(batch,)}"
    if ((counts < 0) | (counts >= tokens)).any():
        return f"`counts` has {counts.tolist()} of {tokens} tokens"
    if again[1] != counts[1]:
        return f"image 1 has {int(counts[1])} tokens to go, and {int(again[1])} when the other images are others"
    return ""


def _gradients(method: Method, one: Applied) -> str:
    hidden, residual = (x.detach().clone().requires_grad_() for x in (one.seen.hidden, one.seen.residual))
    outputs = method(replace(made_up.anew(one.seen), hidden=hidden, residual=residual))
    (outputs[0].float().sum() + outputs[1].sum()).backward()
    for name, grad in (("hidden", hidden.grad), ("residual", residual.grad)):
        if grad is None:
            return f"none reaches the {name} stream"
        if not grad.isfinite().all():
            return f"that of the {name} stream is not finite"
        cls = grad[torch.arange(len(grad), device=grad.device), one.seen.cls]
        if not (cls == 1).all():
            return f"the class token's is not passed on as it is in the {name} stream"
    return ""


def _decided(reduction: Reduction) -> list[tuple[object, ...]]:
    """What becomes of each image's tokens."""
    optional = (x for x in (reduction.weight, reduction.pruned) if x is not None)
    return list(
        zip(*(x.tolist() for x in (reduction.kept, reduction.source, reduction.target, *optional)), strict=True)
    )


def _twice(places: list[int]) -> int | None:
    return None if len(set(places)) == len(places) else next(token for token in places if places.count(token) > 1)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
