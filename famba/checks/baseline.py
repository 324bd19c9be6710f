"""A frozen baseline: what an experiment gave when it was right, small enough to keep beside the code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from famba.config import Fusion, Model, Recipe
from famba.config.validation import Strict, read_json
from famba.errors import InputError
from famba.results.epochs import read_epochs
from famba.results.row import Bytes, Percent, Row, Sha256, grouped
from famba.results.summary import learned_from, unfused
from famba.text import count

VERSION: Literal[2] = 2  # of the baseline's format
MIN_SEEDS = 3  # below, the spread over seeds is hardly known, and every later comparison rests on it


def _is_empty(values: Any) -> bool:
    return not values


Ratio = Annotated[float, Field(gt=0)]


class FrozenCell(Strict):
    """One model and strategy. What depends on chance is there per seed, in the order of `seeds`."""

    model: str
    strategy: str
    schedule: tuple[int, ...]
    seeds: tuple[int, ...]
    top1: tuple[Percent, ...]  # after the last epoch: no choice made on the test set
    # per epoch but the first, to the same run's baseline of that seed, of CPU time on a CPU; empty where times were not
    # frozen
    time_ratios: tuple[tuple[Ratio, ...], ...]
    tokens: tuple[int, ...]
    saved_activations: Bytes
    # per epoch, of a model with a recipe of its own
    learning_rates: Annotated[tuple[float, ...], Field(exclude_if=_is_empty)] = ()

    @property
    def name(self) -> str:
        return f"{self.model}-{self.strategy}"

    @model_validator(mode="after")
    def _whole(self) -> FrozenCell:
        n = len(set(self.seeds))
        if n < len(self.seeds) or n < MIN_SEEDS:
            raise ValueError(f"{self.name}: {count(n, 'different seed')} of {len(self.seeds)}, {MIN_SEEDS} are needed")
        if len(self.top1) != n or len(self.time_ratios) not in (0, n):
            found = f"{len(self.top1)} top1 and {len(self.time_ratios)} time_ratios"
            raise ValueError(f"{self.name}: {found} of {n} seeds")
        if len({len(ratios) for ratios in self.time_ratios}) > 1:
            raise ValueError(f"{self.name}: time_ratios of different numbers of epochs")
        return self


class Frozen(Strict):
    """results/baselines/<experiment>.json."""

    version: Literal[2] = VERSION
    experiment: str
    protocol: str
    train_digest: Sha256
    test_digest: Sha256
    decoder: Annotated[str | None, Field(exclude_if=_is_empty)] = None
    # sha256 of the checkpoints that trainings started from, by model, or by model and seed
    initial: dict[str, Sha256] = Field(default={}, exclude_if=_is_empty)
    scan: str
    device_kind: str
    device: str
    git_commit: str | None
    recipe: Recipe
    fusion: Fusion
    models: dict[str, Model]  # one whose recipe is not `recipe` has its own
    learning_rates: Annotated[tuple[float, ...], Field(min_length=1)]  # per epoch
    cells: Annotated[tuple[FrozenCell, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _cells_have_their_baseline(self) -> Frozen:
        if len(self.by_cell) < len(self.cells):
            raise ValueError("cells: a model and strategy are there twice")
        for cell in self.cells:
            if cell.model not in self.models:
                raise ValueError(f"cells: {cell.name} is of no model in models")
            unfused = self.by_cell.get((cell.model, "baseline"))
            missing = sorted(set(cell.seeds) - set(unfused.seeds if unfused else ()))
            if missing:
                raise ValueError(f"cells: {cell.name} has seed {missing[0]}, and {cell.model}-baseline has not")
        return self

    @cached_property
    def by_cell(self) -> dict[tuple[str, str], FrozenCell]:
        """Cells by model and strategy."""
        return {(cell.model, cell.strategy): cell for cell in self.cells}

    @property
    def learned_from(self) -> dict[str, Any]:
        """What `summary.learned_from` has of the frozen rows."""
        return {
            "train digest of the data": self.train_digest,
            "test digest of the data": self.test_digest,
            "decoder of the images": self.decoder,
            "training from scratch": not self.initial,
            **self.initial,
        }


def freeze(rows: Mapping[Path, Row], times: bool = True) -> Frozen:
    """Freeze rows that may stand side by side, with their times or without, where the machine was not theirs alone.

    Raises InputError unless every cell has enough seeds and a baseline.
    """
    first = next(iter(rows.values()))
    recipes = {row.cell.model: row.cell.recipe for row in rows.values()}
    own = {model: recipe for model, recipe in recipes.items() if recipe != first.cell.recipe}
    cells = []
    for (model, strategy), paths in grouped(rows, lambda path: rows[path].cell.line).items():
        group = [rows[path] for path in paths]
        seeds = tuple(row.cell.seed for row in group)
        if len(seeds) < MIN_SEEDS:
            raise InputError(
                f"{model} {strategy} has {count(len(seeds), 'seed')}; a baseline needs {MIN_SEEDS} of every cell"
            )
        if group[0].tokens.range is not None:
            raise InputError(
                f"{model} {strategy}: its threshold makes tokens depend on the weights; freeze the other strategies"
            )
        missing = [row.cell.seed for row in group if unfused(row, rows) is None]
        if missing:
            raise InputError(f"{model} {strategy}: seed {missing[0]} has no row of the baseline, which times refer to")
        if len({(row.tokens.measured, row.memory.saved_activations) for row in group}) > 1:
            raise InputError(f"{model} {strategy}: tokens or saved activations differ between seeds; nothing to freeze")
        cells.append(
            FrozenCell(
                model=model,
                strategy=strategy,
                schedule=group[0].cell.schedule,
                seeds=seeds,
                top1=tuple(row.metrics.last.top1 for row in group),
                time_ratios=tuple(time_ratios(path, rows) for path in paths) if times else (),
                tokens=group[0].tokens.scheduled,  # as measured: a row in which they differ is refused
                saved_activations=group[0].memory.saved_activations,
                learning_rates=_learning_rates(paths[0], group[0]) if model in own else (),
            )
        )
    return Frozen(
        experiment=first.cell.experiment,
        protocol=first.cell.protocol,
        train_digest=first.data.train_digest,
        test_digest=first.data.test_digest,
        decoder=first.data.decoder,
        initial={
            what: value
            for row in rows.values()
            for what, value in _learned_from(row).items()
            if what.startswith("initial weights") and value
        },
        scan=first.scan.backend,
        device_kind=first.environment.device_kind,
        device=first.environment.device,
        git_commit=first.environment.git_commit,
        recipe=first.cell.recipe,
        fusion=first.cell.fusion,
        models={
            row.cell.model: Model(**dict(row.cell.architecture), recipe=own.get(row.cell.model))
            for row in rows.values()
        },
        learning_rates=_learning_rates(*next(iter(rows.items()))),
        cells=tuple(cells),
    )


def read(path: Path) -> Frozen:
    """Read a frozen baseline. Raises InputError."""
    advice = "; `famba check --freeze` writes one"
    return read_json(Frozen, path, "baseline", advice, advice)


def require_same_settings(frozen: Frozen, path: Path, rows: Mapping[Path, Row]) -> None:
    """Raises InputError where rows were not trained as the frozen ones were: then a difference is no regression."""
    for file, row in rows.items():
        for what, now, then in _settings(row, frozen):
            if now != then:
                raise InputError(
                    f"{file} and {path} differ in {what} ({_short(now)} and {_short(then)}); if that is meant to be, "
                    f"freeze the baseline anew: famba check --freeze {path} ROW..."
                )


def time_ratios(path: Path, rows: Mapping[Path, Row]) -> tuple[float, ...]:
    """Time per epoch relative to the baseline of the same model, seed and run; the first epoch (warm-up) left out.

    Of CPU time on a CPU, as a neighbour there changes the wall clock. Empty without that baseline.
    """
    other = unfused(rows[path], rows)
    if other is None:
        return ()
    cpu = rows[path].environment.device_kind == "cpu"
    ours, theirs = (_epochs(p, rows[p]) for p in (path, other))
    pairs = zip(ours[1:], theirs[1:], strict=True)
    ratios = (a["cpu_s"] / b["cpu_s"] if cpu else b["images_per_s"] / a["images_per_s"] for a, b in pairs)
    return tuple(round(ratio, 4) for ratio in ratios)


def _learning_rates(path: Path, row: Row) -> tuple[float, ...]:
    """Per epoch, of the row there."""
    return tuple(epoch["lr"] for epoch in _epochs(path, row))


def _epochs(path: Path, row: Row) -> list[dict[str, float]]:
    return read_epochs(path.with_name("epochs.csv"), row.cell.recipe.epochs)


def _settings(row: Row, frozen: Frozen) -> list[tuple[str, Any, Any]]:
    """(what, in the row, frozen) of all that has to agree."""
    cell = row.cell
    known = frozen.by_cell.get((cell.model, cell.strategy))
    model = frozen.models.get(cell.model)
    recipe = (model and model.recipe) or frozen.recipe
    then = frozen.learned_from
    return [
        ("protocol", cell.protocol, frozen.protocol),
        *((what, value, then[what]) for what, value in _learned_from(row).items() if what in then),
        ("scan backend", row.scan.backend, frozen.scan),
        ("kind of device", row.environment.device_kind, frozen.device_kind),
        *((f"recipe.{name}", value, getattr(recipe, name)) for name, value in cell.recipe),
        ("fusion", cell.fusion, frozen.fusion),
        (f"architecture of {cell.model}", cell.architecture, model.architecture if model else cell.architecture),
        (f"schedule of {cell.model} {cell.strategy}", cell.schedule, known.schedule if known else cell.schedule),
    ]


def _learned_from(row: Row) -> dict[str, Any]:
    return {" of ".join(key): value for key, value in learned_from(row)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
