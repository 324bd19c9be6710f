"""Every method of token reduction once more, token by token in plain Python, as docs/methods.md describes it.

Nothing of famba is used. Of one sequence, a method returns its remaining tokens in order: each a `Slot`, with the
tokens that its hidden state and its residual are the mean of, and their weights. Equal scores go to the earlier token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Row = list[float]


@dataclass
class OneSequence:
    """One sequence as a method sees it: T tokens."""

    hidden: list[Row]
    cls: int
    r: int
    position: list[int]
    size: list[float]
    y: tuple[list[Row], list[Row]]  # of the forward and the backward direction, as the next three
    delta: tuple[list[Row], list[Row]]
    B: tuple[list[Row], list[Row]]
    C: tuple[list[Row], list[Row]]

    @property
    def patches(self) -> list[int]:
        return [token for token in range(len(self.hidden)) if token != self.cls]


@dataclass
class Slot:
    """A token that remains."""

    token: int
    hidden: dict[int, float]
    residual: dict[int, float]


def mean(x: list[Row], members: dict[int, float]) -> Row:
    total = sum(members.values())
    return [sum(weight * x[token][c] for token, weight in members.items()) / total for c in range(len(x[0]))]


def cosine(a: Row, b: Row) -> float:
    def length(x: Row) -> float:
        return math.sqrt(sum(value * value for value in x))

    return sum(p * q for p, q in zip(a, b, strict=True)) / (length(a) * length(b))


def links(x: list[Row], sources: Sequence[int], targets: Sequence[int]) -> list[tuple[float, int, int]]:
    """(similarity, source, target): each source with its most similar target, the strongest first."""
    found = []
    for source in sources:
        best, strength = targets[0], -math.inf
        for target in targets:
            if cosine(x[source], x[target]) > strength:
                best, strength = target, cosine(x[source], x[target])
        found.append((strength, source, best))
    ranked = []
    while found:
        strongest = found[0]
        for link in found:
            if link[0] > strongest[0]:
                strongest = link
        found.remove(strongest)
        ranked.append(strongest)
    return ranked


def grouped(
    tokens: Sequence[int],
    joined: Sequence[tuple[int, int]],
    weight: Callable[[int], float] = lambda _: 1,
    pruned: Sequence[int] = (),
) -> list[Slot]:
    """The slots of `tokens`, in that order; each (source, target) joins, the pruned ones in the residual alone."""
    slots = []
    for token in tokens:
        slot = Slot(token, {token: weight(token)}, {token: weight(token)})
        for source, target in joined:
            if target == token:
                slot.residual[source] = weight(source)
                if source not in pruned:
                    slot.hidden[source] = weight(source)
        slots.append(slot)
    return slots


def above(found: list[tuple[float, int, int]], r: int, threshold: float | None) -> list[tuple[float, int, int]]:
    """The r strongest of links that are sorted; with a threshold, those of them that are stronger than it."""
    return [link for link in found[:r] if threshold is None or link[0] > threshold]


def famba_v(
    s: OneSequence,
    order: str = "sequence",
    size_weighted: bool = False,
    placement: str = "",
    threshold: float | None = None,
) -> list[Slot]:
    """Even positions are linked to odd ones, the class token counted but in neither set; r best links are merged."""
    evens = [token for token in range(0, len(s.hidden), 2) if token != s.cls]
    odds = [token for token in range(1, len(s.hidden), 2) if token != s.cls]
    joined = [(a, b) for _, a, b in above(links(s.hidden, evens, odds), s.r, threshold)] if s.r else []
    kept = [token for token in range(len(s.hidden)) if token not in [a for a, _ in joined]]
    if order == "tome":
        kept = [token for token in kept if token % 2 == 0] + [token for token in kept if token % 2 == 1]
    return grouped(kept, joined, (lambda token: s.size[token]) if size_weighted else (lambda _: 1))


def rmeeto(s: OneSequence, feature: str = "X", prune: bool = False, threshold: float | None = None) -> list[Slot]:
    """Class token cut out; evens of the rest to their best odd; original order; class token back at its share."""
    if feature == "X":
        x = s.hidden
    else:
        forward, backward = getattr(s, feature)
        x = [a + b for a, b in zip(forward, backward, strict=True)]
    joined = [(a, b) for _, a, b in above(links(x, s.patches[0::2], s.patches[1::2]), s.r, threshold)] if s.r else []
    kept = [token for token in s.patches if token not in [a for a, _ in joined]]
    kept.sort(key=lambda token: s.position[token])
    kept.insert(int(s.cls * (len(s.hidden) - len(joined)) / len(s.hidden)), s.cls)
    return grouped(kept, [] if prune else joined, (lambda _: 1) if prune else (lambda token: s.size[token]))


def hsa(s: OneSequence, score: str = "paper", align: bool = True) -> list[Slot]:
    """The r patches of the lowest score are dropped."""

    def of(token: int) -> float:
        if score == "code":
            return sum(s.y[1][token])
        return sum(max(0.0, value) for direction in s.y for value in direction[token])

    dropped = sorted(s.patches, key=of)[: s.r]
    return grouped([token for token in range(len(s.hidden)) if token not in dropped], [])


def utr(s: OneSequence, q: float = 0.5) -> list[Slot]:
    """Less important half to the other; r best links; the share q with the least important sources is pruned."""

    def importance(token: int) -> float:
        return sum(max(0.0, value) for direction in s.y for value in direction[token]) / len(s.y[0][token])

    ranked = sorted(s.patches, key=importance)
    half = len(ranked) // 2
    best = links(s.hidden, ranked[:half], ranked[half:])[: s.r] if s.r else []
    joined = sorted(((a, b) for _, a, b in best), key=lambda link: ranked.index(link[0]))
    pruned = [a for a, _ in joined[: round(q * s.r)]]
    sources = [a for a, _ in joined]
    return grouped([token for token in range(len(s.hidden)) if token not in sources], joined, pruned=pruned)


def mtr(s: OneSequence, targets: float = 0.5) -> list[Slot]:
    """Lowest r of the mean step join the most similar of the next ones."""

    def step(token: int) -> float:
        return sum(sum(direction[token]) / len(direction[token]) for direction in s.delta)

    ranked = sorted(s.patches, key=step)
    sources, others = ranked[: s.r], ranked[s.r :]
    middle = others[: math.ceil(targets * len(others))]
    joined = [(a, b) for _, a, b in links(s.hidden, sources, middle)]
    return grouped([token for token in range(len(s.hidden)) if token not in sources], joined)


SLOW: dict[str, Callable[..., list[Slot]]] = {
    "famba_v": famba_v, "rmeeto": rmeeto, "hsa": hsa, "utr": utr, "mtr": mtr,
}  # fmt: skip


def slow(name: str, sequence: OneSequence, settings: dict) -> list[Slot]:
    return SLOW[name](sequence, **settings)
