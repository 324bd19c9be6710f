"""paired.json: every two strategies of a model, compared on the same test images.

Seed by seed two networks are compared (McNemar), and over seeds the strategies. Networks whose test images are in
another order are never compared; what cannot be compared is left out with its reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from famba.config.validation import Strict
from famba.errors import InputError
from famba.results import predictions
from famba.results.beside import hashes
from famba.results.predictions import Predictions, read_predictions
from famba.results.row import Row, Sha256, grouped
from famba.results.same_images import (
    difference_interval,
    interaction_spread,
    mcnemar,
    over_seeds_and_images,
)
from famba.results.statistics import ALPHA, Spread, holm
from famba.text import left_out, six_digits

NAME = "paired.json"
MIN_DF = 2  # of the scatter of one training: with one degree of freedom, errors reach 12 % instead of 5 %


class Networks(Strict):
    """Two networks of one seed. `only_strategy`, `only_against`: images that one of them alone gets right.

    `difference`: top-1 of `strategy` less that of `against`, in points, with its 95 % interval over images. `p`: exact
    McNemar test; `p_holm`: adjusted for all pairs of this model and seed.
    """

    seed: int
    only_strategy: int
    only_against: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


class Strategies(Strict):
    """The mean over seeds of the difference in top-1, in points, with its 95 % interval over seeds and images.

    `se_seeds`, `se_images`: the two parts of its standard error. `p_holm`: adjusted for all pairs of this model.
    """

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    se_seeds: float
    se_images: float
    df: float


class Pair(Strict):
    """Two strategies of a model. `over_seeds` is null where `unknown` says why."""

    model: str
    strategy: str
    against: str
    networks: list[Networks]
    over_seeds: Strategies | None
    unknown: str | None


class SameStrategy(Strict):
    """Networks of one strategy and different seeds, in pairs, and how many of these McNemar's test finds to differ."""

    model: str
    pairs: int
    differ: int


class Paired(Strict):
    """paired.json. `digest`: of the rows and the ledger, as in claims.json. `images`: of the test set.

    `predictions`: sha256 of each row's predictions.npz; null in files from before it was recorded.
    """

    version: Literal[1] = 1
    watermark: Literal["SMOKE"] | None
    digest: str
    alpha: float
    images: int
    pairs: list[Pair]
    same_strategy: list[SameStrategy]
    left_out: list[str]
    predictions: Annotated[dict[str, Sha256] | None, Field(exclude_if=lambda found: found is None)] = None


@dataclass(frozen=True)
class _Network:
    row: Row
    predictions: Predictions

    @property
    def name(self) -> str:
        return f"{self.row.cell.strategy} s{self.row.cell.seed}"


class _NotPaired(Exception):
    """Why two networks are not compared."""


def compare(rows: Mapping[Path, Row], digest: str) -> Paired:
    """Compare every two strategies of each model, in the order of the rows.

    Args:
        rows: of one test set, as `famba.results.summary.read_rows` makes sure.
        digest: of the rows and their ledger.
    """
    first = next(iter(rows.values()))
    networks, unread = _read(rows)
    pairs: list[Pair] = []
    same: list[SameStrategy] = []
    unpaired: list[tuple[str, str]] = []
    for model, group in grouped(networks, lambda network: network.row.cell.model).items():
        pairs += _pairs(model, group, unpaired)
        same += _same_strategy(model, group)
    return Paired(
        watermark=first.watermark,
        digest=digest,
        alpha=ALPHA,
        images=first.data.test,
        pairs=pairs,
        same_strategy=same,
        left_out=[*left_out(unread, "row"), *left_out(unpaired, "pair")],
        predictions=hashes(rows, predictions.NAME),
    )


def _read(rows: Mapping[Path, Row]) -> tuple[list[_Network], list[tuple[str, str]]]:
    """The networks, and what could not be read: why, and of which row."""
    networks, unread = [], []
    for path, row in rows.items():
        file = path.with_name(predictions.NAME)
        if not file.exists():
            unread.append((f"{predictions.NAME} is not beside the row", row.id))
            continue
        try:
            networks.append(_Network(row, read_predictions(file, row)))
        except InputError as error:
            unread.append((str(error).removeprefix(f"{file}: "), row.id))
    return networks, unread


def _pairs(model: str, networks: Sequence[_Network], unpaired: list[tuple[str, str]]) -> list[Pair]:
    """Every two strategies of a model; the second is compared with the first. Adds to `unpaired` what is not."""
    cells = {(network.row.cell.strategy, network.row.cell.seed): network for network in networks}
    accuracies = {key: float(network.predictions.correct.mean()) for key, network in cells.items()}
    scatter = interaction_spread(accuracies)
    found: list[dict[str, Any]] = []
    for against, strategy in combinations(dict.fromkeys(name for name, _ in cells), 2):
        compared: dict[int, np.ndarray] = {}
        for seed in [seed for name, seed in cells if name == strategy and (against, seed) in cells]:
            one, other = cells[strategy, seed], cells[against, seed]
            try:
                compared[seed] = _differences(one, other)
            except _NotPaired as reason:
                unpaired.append((str(reason), f"{model} {one.name} and {other.name}"))
        if compared:
            over_seeds, unknown = _over_seeds(compared, [cells[strategy, seed] for seed in compared], scatter)
            found.append(
                {
                    "model": model, "strategy": strategy, "against": against, "over_seeds": over_seeds,
                    "networks": [{"seed": seed} | _networks(of_images) for seed, of_images in compared.items()],
                    "unknown": unknown,
                }
            )  # fmt: skip
    for family in grouped((one for pair in found for one in pair["networks"]), lambda one: one["seed"]).values():
        _adjust(family)
    _adjust([pair["over_seeds"] for pair in found if pair["over_seeds"]])
    return [Pair.model_validate(pair) for pair in found]


def _adjust(family: Sequence[dict[str, Any]]) -> None:
    """Add Holm's p-values of a family; all numbers to six digits, which every machine computes alike."""
    adjusted = holm(np.array([one["p"] for one in family]))
    for one, p in zip(family, adjusted, strict=True):
        one["p_holm"] = float(p)
        one.update({name: six_digits(value) for name, value in one.items()})


def _differences(one: _Network, other: _Network) -> np.ndarray:
    """(N,) in -1, 0, 1: correctness of one network less that of another. Raises _NotPaired."""
    if one.row.data.order_digest != other.row.data.order_digest:
        raise _NotPaired("their test images are in another order")
    if not np.array_equal(one.predictions.labels, other.predictions.labels):
        raise _NotPaired("the labels in their predictions.npz differ; train the wrong one again")
    return one.predictions.correct.astype(float) - other.predictions.correct


def compare_settings(
    correct: Mapping[str, np.ndarray], references: Mapping[str, str]
) -> dict[str, dict[str, float | None]]:
    """One network under several settings, each compared with its reference on the same images, as `Networks` are.

    `correct`: (N,) bool, by setting. Holm's family are all these comparisons; a setting without a reference has none.
    """
    found = {
        name: _networks(correct[name].astype(float) - correct[reference]) for name, reference in references.items()
    }
    _adjust(list(found.values()))
    empty = dict.fromkeys(("only_strategy", "only_against", "difference", "low", "high", "p", "p_holm"))
    return {name: empty | found.get(name, {}) for name in correct}


def _networks(differences: np.ndarray) -> dict[str, Any]:
    only_strategy, only_against = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = difference_interval(only_strategy, only_against, len(differences))
    return {
        "only_strategy": only_strategy, "only_against": only_against,
        "difference": 100 * float(differences.mean()), "low": 100 * low, "high": 100 * high,
        "p": mcnemar(only_strategy, only_against),
    }  # fmt: skip


def _over_seeds(
    compared: Mapping[int, np.ndarray], networks: Sequence[_Network], scatter: Spread
) -> tuple[dict[str, Any] | None, str | None]:
    """What is known over seeds, and images; or why nothing is."""
    if len(compared) < 2:
        return None, "one seed"
    if len({network.row.data.order_digest for network in networks}) > 1:
        return None, "the order of the images differs between seeds"
    if min(map(len, compared.values())) < 2:
        return None, "one test image"
    if scatter.df < MIN_DF:
        return None, "two strategies with two seeds each: how far a training scatters is hardly known"
    found = over_seeds_and_images(np.stack(list(compared.values())), scatter)
    points = {name: 100 * getattr(found, name) for name in ("low", "high", "se_seeds", "se_images")}
    return {"difference": 100 * found.mean, "p": found.p, "df": min(found.df, 1e6)} | points, None


def _same_strategy(model: str, networks: Sequence[_Network]) -> list[SameStrategy]:
    """The control: networks between which only the seed differs."""
    p = []
    for group in grouped(networks, lambda network: network.row.cell.strategy).values():
        for one, other in combinations(group, 2):
            try:
                p.append(_networks(_differences(one, other))["p"])
            except _NotPaired:
                continue
    return [SameStrategy(model=model, pairs=len(p), differ=sum(one <= ALPHA for one in p))] if p else []
