"""Every setting of an experiment, typed and validated once.

An experiment file (`config/*.yaml`) describes a grid: models x strategies x seeds under one recipe, or with a recipe of
its own for a model. A `Cell` is everything one training needs; it travels as JSON from Snakemake to `famba train` and
into the result row, so that a row can be re-run from itself alone.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from famba.config import image_folder, protocol, yaml_file
from famba.config.datasets import DATASETS, Sizes
from famba.config.image_folder import DataName, ListedFolder, NamedFolder
from famba.config.methods import code_of
from famba.config.presets import PRESETS
from famba.config.schedules import Own, Schedule, tokens_removed
from famba.config.settings import (
    ARCHITECTURES,
    Architecture,
    ClsPosition,
    Count,
    FolderName,
    Fusion,
    ModelName,
    Name,
    Protocol,
    Recipe,
    Seed,
    Text,
    Whole,
)
from famba.config.trainable import unmet
from famba.config.validation import Strict, from_json, short, validated
from famba.errors import InputError
from famba.strategies import NAMED, STRATEGIES, strategy, tokens_per_layer
from famba.text import listed, nearest

# famba.scan's, which has torch to import
ScanName = Literal["auto", "mamba_ssm", "cpu", "triton", "chunked", "reference"]

WEIGHTS = "weights.pt"  # of a finished training, beside its row
MAX_CELLS = 10_000  # Snakemake takes minutes to plan more jobs


def _is_one(value: int) -> bool:
    return value == 1


def _is_none(value: object) -> bool:
    return value is None


class Model(Architecture):
    """A model of a grid: its architecture, and the recipe that trains it where that is not the experiment's."""

    recipe: Annotated[Recipe | None, Field(exclude_if=_is_none)] = None

    @property
    def architecture(self) -> Architecture:
        """The model without its recipe."""
        return Architecture.model_validate(self.model_dump(exclude={"recipe"}))


def _require_even(nodes: int, processes: int, recipe: Recipe) -> None:
    """Every node has its equal part of the processes, and every process of a batch. Raises ValueError."""
    if processes % nodes or recipe.global_batch % processes:
        raise ValueError(
            f"nodes {nodes} must divide processes {processes}, "
            f"and that must divide recipe.global_batch {recipe.global_batch}"
        )


def initial_of(recipe: Recipe, seed: int) -> Path | None:
    """The checkpoint that a seed's training starts from; None: random weights."""
    return None if recipe.init is None else weights_at(Path(recipe.init.replace("{seed}", str(seed))))


def weights_at(path: Path) -> Path:
    """The file of weights that a path names: for a row that beside it, else itself.

    A row has times in it: retrained to the same bits, its weights are the same file, and it is not.
    """
    return path.with_name(WEIGHTS) if path.suffix == ".json" else path


class Cell(Strict):
    """One training: a model, a fusion schedule and a seed, with all that they need."""

    experiment: FolderName
    protocol: Protocol
    dataset: DataName
    model: ModelName
    architecture: Architecture
    strategy: Name
    schedule: tuple[Whole, ...]
    fusion: Fusion
    seed: Seed
    recipe: Recipe
    device: Literal["auto", "cpu", "cuda"]
    threads: Count | None
    scan: str
    # one process on one node is not written: such a cell is the same as before there were others
    processes: Annotated[Count, Field(exclude_if=_is_one)] = 1
    nodes: Annotated[Count, Field(exclude_if=_is_one)] = 1
    data: Annotated[ListedFolder | None, Field(exclude_if=_is_none)] = None  # of an image folder

    @model_validator(mode="after")
    def _data_known(self) -> Cell:
        _require_known(self.dataset, self.data is not None)
        return self

    @model_validator(mode="after")
    def _processes_divide(self) -> Cell:
        _require_even(self.nodes, self.processes, self.recipe)
        return self

    @property
    def sizes(self) -> Sizes:
        """How large its data set is."""
        return _sizes(self.dataset, self.data)

    @property
    def id(self) -> str:
        return f"{self.model}-{self.strategy}-s{self.seed}"

    @property
    def line(self) -> tuple[str, str]:
        """Model and strategy: the line of the summary to which all seeds belong."""
        return self.model, self.strategy

    @property
    def mixed(self) -> tuple[int, ...]:
        """The tokens that each mixer sees less than the one before; of a method that acts late, those of that layer."""
        return (0, *self.schedule[:-1]) if self.fusion.late else self.schedule

    @property
    def init(self) -> Path | None:
        """The checkpoint that the training starts from."""
        return initial_of(self.recipe, self.seed)

    @property
    def images_per_pass(self) -> int:
        """Images of each process in a backward pass, which memory follows: a small global batch has fewer."""
        return min(self.recipe.micro_batch, self.recipe.global_batch // self.processes)

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Read the JSON that `Experiment.cell_json` wrote. Raises InputError."""
        cell = validated(cls, from_json(text, "--cell"), "--cell")
        if problem := unmet(cell):
            raise InputError(f"--cell: {problem}")
        return cell


class Experiment(Strict):
    """A grid of trainings, as one YAML file describes it."""

    experiment: FolderName
    protocol: Protocol
    dataset: DataName  # the name of `data`, where that is given
    data: NamedFolder | None = None  # an image folder of your own
    models: dict[ModelName, Model]
    cls_position: ClsPosition = "middle"  # in the models that do not say themselves; the paper's is the head
    strategies: Annotated[list[Name], Field(min_length=1)] = Field(default=list(STRATEGIES))
    schedules: dict[Name, Schedule] = Field(default={})  # strategies of your own: tokens per layer
    seeds: Annotated[list[Seed], Field(min_length=1)]
    fusion: Fusion = Fusion()
    recipe: Recipe = Recipe()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None  # CPU threads of each process of a training; null: all cores
    processes: Count = 1  # of one training, joined by torchrun to share each global batch: on GPUs, each has its own
    nodes: Count = 1  # machines that the processes are spread over evenly
    scan: ScanName = "auto"
    container: Text = "envs/famba-cuda.sif"
    claims: Text = (
        "config/claims.yaml"  # the ledger that the rows are judged by; as `container`, seen from the checkout
    )

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Experiment:
        # a schedule that no strategy names is checked for each model
        cells = len(self.models) * max(len(self.strategies) * len(self.seeds), len(self.schedules))
        if cells > MAX_CELLS:
            raise ValueError(f"a grid of {cells:,} cells; at most {MAX_CELLS:,} fit into one experiment")
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_by_data(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(name := data.get("data"), str):
            raise ValueError(
                f"data: {short(name)} is a name: dataset: {short(name)}; `data` is an image folder's block"
            )
        if isinstance(data, dict) and "dataset" not in data and isinstance(data.get("data"), dict):
            return {**data, "dataset": data["data"].get("name", "unnamed")}  # it is missed under its own key
        return data

    @model_validator(mode="after")
    def _data_known(self) -> Experiment:
        if self.data is not None and self.data.name != self.dataset:
            raise ValueError(f"dataset is {self.dataset}, and data.name {self.data.name}; leave dataset out")
        _require_known(self.dataset, self.data is not None)
        return self

    @model_validator(mode="after")
    def _strategies_known(self) -> Experiment:
        if not self.models:
            raise ValueError("models is empty: name at least one")
        for name, schedule in self.schedules.items():
            if name in NAMED:
                raise ValueError(f"schedules: {name} is a published strategy; call yours otherwise")
            for name_of_model, model in self.models.items():
                try:
                    tokens_removed(schedule, model.depth, None)
                except ValueError as error:
                    raise ValueError(f"schedules.{name} {error} ({name_of_model})") from None
        for name in self.strategies:
            if name not in NAMED and name not in self.schedules:
                raise ValueError(f"unknown strategy {name!r}{nearest(name, [*NAMED, *self.schedules])}")
        if not self.fusion.is_published:
            raise ValueError(
                "fusion: a method belongs to a strategy of your own: schedules: {mine: {like: upper, method: utr}}"
            )
        for what, values in (("seeds", self.seeds), ("strategies", self.strategies)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} has a value twice")
        return self

    @model_validator(mode="after")
    def _processes_divide(self) -> Experiment:
        for recipe in self.recipes:
            _require_even(self.nodes, self.processes, recipe)
        return self

    @model_validator(mode="after")
    def _models_differ(self) -> Experiment:
        """Two names of one training would be judged as one cell of the paper's, and some folders ignore case."""
        cases: dict[str, str] = {}
        for name in self.models:
            if (other := cases.setdefault(name.lower(), name)) != name:
                raise ValueError(f"models: {other} and {name} differ in case only, which some file systems ignore")
        named: dict[tuple[str, str], str] = {}
        for name, model in self.models.items():
            trained = (model.architecture.model_dump_json(), self.recipe_of(name).identity)
            if (other := named.setdefault(trained, name)) != name:
                raise ValueError(f"models: {other} and {name} are the same architecture under the same recipe")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> Experiment:
        """Schedules that no strategy here names are checked too: another run may name them."""
        try:
            _ = self.listed  # here, as each strategy's cell asks for it
        except InputError as error:
            raise ValueError(f"data: {error}") from None
        for name in dict.fromkeys([*self.strategies, *self.schedules]):
            for model in self.models:
                try:
                    problem = unmet(self._cell(model, name, self.seeds[0]))
                except InputError as error:  # of its method
                    problem = f"schedules.{name}: {error}"
                if problem:
                    raise ValueError(problem)
        return self

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read and validate an experiment file. Raises InputError, one line naming file, key and what is wrong."""
        return cls.from_config(cls.read(path), str(path))

    @staticmethod
    def read(path: str | Path) -> Any:
        """What an experiment file says, not validated. Raises InputError if it is not YAML, or has a key twice."""
        return yaml_file.read(Path(path), "the experiment file")

    @classmethod
    def from_config(cls, data: Any, source: str = "configuration") -> Experiment:
        """Validate an already parsed experiment, such as Snakemake's `config`. Raises InputError."""
        if not isinstance(data, dict):
            raise InputError(f"{source}: expected a mapping of settings, found {type(data).__name__}")
        claimed = data.get("protocol")
        data = {**data, "recipe": _by_protocol(data.get("recipe", {}), claimed)}
        models = data.get("models")
        if isinstance(models, list):  # the short form: names of published architectures
            unknown = [name for name in models if not (isinstance(name, str) and name in ARCHITECTURES)]
            if unknown:
                shown = short(unknown[0])
                raise InputError(f"{source}: models: unknown model {shown}{nearest(shown, ARCHITECTURES)}")
            if len(set(models)) != len(models):
                raise InputError(f"{source}: models has a value twice")
            models = {name: ARCHITECTURES[name].model_dump(exclude_defaults=True) for name in models}
        if isinstance(models, dict):
            position = data.get("cls_position")
            shared = {"cls_position": position} if position in get_args(ClsPosition) else {}
            models = {name: _completed(model, shared, claimed) for name, model in models.items()}
        data = {**data, "models": models} if "models" in data else data
        return validated(cls, data, source)

    def recipe_of(self, model: str) -> Recipe:
        """The recipe that trains a model: its own, else the experiment's."""
        return self.models[model].recipe or self.recipe

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes that train the models, each once."""
        return list(dict.fromkeys(map(self.recipe_of, self.models)))

    @property
    def listed(self) -> ListedFolder | None:
        """The image folder, with what its manifest says. Raises InputError where there is no manifest."""
        return None if self.data is None else image_folder.listed(self.data)

    @property
    def sizes(self) -> Sizes:
        """How large its data set is."""
        return _sizes(self.dataset, self.listed)

    @property
    def identified_data(self) -> str:
        """What the file with the data set's identity is called: another manifest has another, which has to be made."""
        listed = self.listed
        return self.dataset if listed is None else f"{self.dataset}-{listed.sha256[:12]}"

    def cells(self) -> list[Cell]:
        """All cells of the grid: model by model, strategy by strategy, seed by seed."""
        return [self.cell(m, s, seed) for m in self.models for s in self.strategies for seed in self.seeds]

    def cell(self, model: str, strategy_name: str, seed: int) -> Cell:
        """The cell of this grid with that model, strategy and seed. Raises InputError for one that is not in it."""
        for what, value, known in (
            ("model", model, list(self.models)),
            ("strategy", strategy_name, self.strategies),
            ("seed", seed, self.seeds),
        ):
            if value not in known:
                raise InputError(f"{self.experiment} has no {what} {value!r}; it has {listed([*map(str, known)])}")
        return self._cell(model, strategy_name, seed)

    def _cell(self, model: str, strategy_name: str, seed: int) -> Cell:
        architecture = self.models[model].architecture
        own = self.schedules.get(strategy_name)
        tokens = architecture.tokens if self.fusion.budget == "proportional" else None
        depth = architecture.depth
        schedule = strategy(strategy_name, depth, tokens) if own is None else tokens_removed(own, depth, tokens)
        shared: dict[str, Any] = {name: value for name, value in self if name in Cell.model_fields}
        shared["data"] = self.listed
        shared["recipe"] = self.recipe_of(model)
        if isinstance(own, Own):
            by = {name: getattr(own, name) for name in ("method", "settings", "placement")}
            shared["fusion"] = self.fusion.model_copy(update={**by, "code": code_of(own.method)})
            if own.like is not None and tokens is not None:  # the published share goes as far as it can
                trace = tokens_per_layer(schedule, architecture.tokens, architecture.cls_index)
                schedule = tuple(before - after for before, after in pairwise((architecture.tokens, *trace[:-1])))
        return Cell(
            **shared, model=model, architecture=architecture, strategy=strategy_name, schedule=schedule, seed=seed
        )

    def cell_by_id(self, cell_id: str) -> Cell:
        """The cell called `<model>-<strategy>-s<seed>`. Raises InputError, naming the nearest one there is."""
        cells = {cell.id: cell for cell in self.cells()}
        if cell_id not in cells:
            raise InputError(f"{self.experiment} has no cell {cell_id!r}{nearest(cell_id, cells)}")
        return cells[cell_id]

    def cell_json(self, wildcards: Any) -> str:
        """The cell that Snakemake's wildcards (model, strategy, seed) name, as one line of JSON."""
        return self.cell(wildcards.model, wildcards.strategy, int(wildcards.seed)).model_dump_json()

    def init_files(self, wildcards: Any) -> list[str]:
        """The checkpoint that the cell of Snakemake's wildcards starts from, if its recipe names one."""
        init = initial_of(self.recipe_of(wildcards.model), int(wildcards.seed))
        return [] if init is None else [str(init)]

    def require_init(self) -> None:
        """Raises InputError unless each recipe's checkpoint is where it says, seen from the working directory."""
        for recipe in self.recipes:
            for init in filter(None, (initial_of(recipe, seed) for seed in self.seeds)):
                if not os.path.isfile(init):
                    raise InputError(
                        f"{self.experiment}: recipe.init: {init} is not there; it is looked for from {Path.cwd()}, "
                        "where Snakemake runs"
                    )

    def require_claims(self) -> None:
        """Raises InputError unless the ledger is where the settings say, seen from the working directory."""
        if not os.path.isfile(self.claims):
            raise InputError(
                f"{self.experiment}: claims: {self.claims} is not there; it is looked for from {Path.cwd()}, "
                "where Snakemake runs"
            )


def _require_known(dataset: str, is_folder: bool) -> None:
    """Raises ValueError for a data set that is none of famba's own and no image folder, or both."""
    if is_folder and dataset in DATASETS:
        raise ValueError(f"data.name: {dataset} is a data set of famba's own; call yours otherwise")
    if not is_folder and dataset not in DATASETS:
        raise ValueError(
            f"dataset: unknown data set {short(dataset)}{nearest(dataset, DATASETS)}; "
            "an image folder of your own has a `data` block"
        )


def _sizes(dataset: str, data: ListedFolder | None) -> Sizes:
    if data is None:
        return DATASETS[dataset]
    height, width = data.pixels if data.size is None else (data.size, data.size)
    return Sizes(data.train, data.test, (height, width, 3), data.classes)


def _by_protocol(recipe: Any, claimed: Any) -> Any:
    """The recipe, with the rate advancing per step where neither a preset nor the protocol settles that it does not."""
    settled = not isinstance(recipe, dict) or recipe.keys() & {"preset", "sched_on_updates"}
    if settled or claimed in list(protocol.FREE_OF):  # a list: what is claimed may be anything yet
        return recipe
    return {**recipe, "sched_on_updates": True}


def _completed(model: Any, shared: dict[str, Any], claimed: Any) -> Any:
    """A model of an experiment file, with what the experiment settles for all of its models."""
    if not isinstance(model, dict):
        return model
    own = {"recipe": _by_protocol(model["recipe"], claimed)} if "recipe" in model else {}
    return {**shared, **model, **own}


def json_schema() -> dict[str, Any]:
    """JSON schema of an experiment file (published as config/schema/experiment.json)."""
    schema = Experiment.model_json_schema()
    schema["properties"]["dataset"] = {"anyOf": [{"enum": list(DATASETS)}, schema["properties"]["dataset"]]}
    schema["required"].remove("dataset")
    schema["anyOf"] = [{"required": ["dataset"]}, {"required": ["data"]}]
    published: dict[str, Any] = {"type": "array", "items": {"enum": list(ARCHITECTURES)}}
    schema["properties"]["models"] = {"anyOf": [schema["properties"]["models"], published], "title": "Models"}
    by_name: dict[str, Any] = {"enum": list(PRESETS)}
    for of in (schema, schema["$defs"]["Model"]):
        of["properties"]["recipe"] = {"anyOf": [of["properties"]["recipe"], by_name], "title": "Recipe"}
    return schema
