"""Which layers fuse how many tokens: the paper's strategies as data. No torch here: Snakemake reads them at start."""

from collections.abc import Sequence

from famba.errors import InputError
from famba.text import nearest

STRATEGIES = ("baseline", "all", "interleaved", "lower", "upper")
READINGS = ("lower_18", "upper_18")  # readings of the released scripts with one layer less (docs/deviations.md, 17)
NAMED = STRATEGIES + READINGS

_PAPER_DEPTH = 24
_PAPER_TOKENS = 197
# tokens fused per layer at depth 24 (the paper's section 4.1)
_PAPER_R = {"baseline": 0, "all": 7, "interleaved": 14, "lower": 9, "upper": 9, "lower_18": 9, "upper_18": 9}
# layers of 24 that fuse: the first ones of `lower`, the last ones of `upper`
_PAPER_LAYERS = {"baseline": 0, "all": 24, "interleaved": 12, "lower": 19, "upper": 19, "lower_18": 18, "upper_18": 18}


def strategy(name: str, depth: int = _PAPER_DEPTH, tokens: int | None = None) -> tuple[int, ...]:
    """Tokens to fuse at each layer, for one of the paper's strategies (its section 4.1; paper-facts §2).

    Args:
        name: one of `NAMED`. `all` fuses in every layer, `interleaved` in every second one (1, 3, ...), `lower` in the
            first 19 of 24 layers (0 to 18) and `upper` in the last 19 (5 to 23). `lower_18` (0 to 17) and `upper_18`
            (6 to 23) are those of two released scripts.
        depth: number of layers. Other depths than 24 scale the set of layers.
        tokens: None takes the paper's tokens per layer (7, 14 or 9) as they are. A sequence length, class token
            included, takes the paper's *share* instead: 168 (171, 162) of 196 tokens, spread evenly over the layers, so
            that a scaled-down model is thinned as much as the paper's. Equal to None at depth 24 and 197 tokens.

    Returns:
        `depth` integers.

    Raises:
        InputError: unknown name, or a depth or token count below 1.
    """
    if name not in NAMED:
        raise InputError(f"unknown fusion strategy {name!r}{nearest(str(name), NAMED)}")
    if not isinstance(depth, int) or not isinstance(tokens, int | None):
        raise InputError(f"a fusion strategy needs whole numbers for depth and tokens, found {depth!r} and {tokens!r}")
    if depth < 1 or (tokens is not None and tokens < 1):
        raise InputError(f"a fusion strategy needs depth and tokens of at least 1, found {depth} and {tokens}")
    number = round(depth * _PAPER_LAYERS[name] / _PAPER_DEPTH)
    if name == "interleaved":
        layers = range(1, depth, 2)
    elif name.startswith("upper"):
        layers = range(depth - number, depth)
    else:
        layers = range(number)
    schedule = [0] * depth
    for i, layer in enumerate(layers):
        if tokens is None:
            schedule[layer] = _PAPER_R[name]
        else:
            budget = round(_PAPER_R[name] * _PAPER_LAYERS[name] * (tokens - 1) / (_PAPER_TOKENS - 1))
            # the i-th of n equal shares of a whole number: shares differ by one at most
            schedule[layer] = budget * (i + 1) // len(layers) - budget * i // len(layers)
    return tuple(schedule)


def cls_index(patches: int, position: str) -> int:
    """Where the class token enters a sequence of patches: between the halves ("middle", Vim's), or first ("head")."""
    return patches // 2 if position == "middle" else 0


def tokens_per_layer(schedule: Sequence[int], tokens: int, cls_index: int | None = None) -> tuple[int, ...]:
    """Tokens that the mixer of each layer sees under a schedule, then the final count: `len(schedule) + 1` integers.

    Fusion comes before the mixer of its layer, so entry l already lacks the tokens fused at layer l.
    `cls_index`: where the class token enters, None if there is none.
    """
    trace = []
    for r in schedule:
        tokens -= capped(r, tokens, cls_index is not None, None)
        trace.append(tokens)
    return (*trace, tokens)


def beyond_cap(schedule: Sequence[int], tokens: int, cls_index: int | None) -> tuple[int, int, int] | None:
    """(layer, tokens asked for, tokens that can be fused) of the first layer that asks for more than can be."""
    trace = tokens_per_layer(schedule, tokens, cls_index)
    for layer, (asked, before, after) in enumerate(zip(schedule, (tokens, *trace), trace, strict=False)):
        if before - after != asked:
            return layer, asked, before - after
    return None


def capped(r: int, tokens: int, has_cls: bool, place: int | None) -> int:
    """r, at most half of the unprotected tokens.

    Of three tokens with the class token in the middle, or in a place that differs between sequences, none has an
    unprotected partner: the shape of a batch must not depend on its images, so none is fused.
    """
    if has_cls and tokens == 3 and place not in (0, 2):
        return 0
    return min(r, (tokens - has_cls) // 2)
