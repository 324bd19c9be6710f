"""Every setting of an experiment, typed and validated once.

An experiment file (`config/*.yaml`) describes a grid: models x strategies x seeds under one recipe. A `Cell` is
everything one training needs; it travels as JSON from Snakemake to `famba train` and into the result row, so that a
row can be re-run from itself alone.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from famba.errors import InputError
from famba.schedule import STRATEGIES, strategy

Protocol = Literal["paper", "fast", "smoke", "custom"]  # custom: an experiment of your own, no claim about the paper
DatasetName = Literal["cifar100", "fashion-mnist", "digits"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # no hyphen: cell ids are <model>-<strategy>-s<seed>


def _is_one(value: int) -> bool:
    return value == 1


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Architecture(Settings):
    """A Vision Mamba (paper-facts §3). `embed_dim` in channels, `img_size` and `patch_size` in pixels."""

    embed_dim: Count
    depth: Count = 24
    img_size: Count = 224
    patch_size: Count = 16
    stride: Count | None = None  # between patches; null: patch_size
    d_state: Count = 16
    d_conv: Count = 4
    expand: Count = 2
    cls_position: Literal["middle", "head"] = "middle"

    @model_validator(mode="after")
    def _patches_divide(self) -> Architecture:
        if self.img_size < self.patch_size or (self.stride is None and self.img_size % self.patch_size):
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def tokens(self) -> int:
        """Length of the token sequence, class token included."""
        return ((self.img_size - self.patch_size) // (self.stride or self.patch_size) + 1) ** 2 + 1


ARCHITECTURES = {
    "vim_tiny": Architecture(embed_dim=192),  # 6,974,308 parameters at 100 classes
    "vim_small": Architecture(embed_dim=384),  # 25,450,084
}


class Fusion(Settings):
    """How tokens are fused (paper-facts §2).

    `budget: paper` takes the paper's tokens per layer as they are; `proportional` removes the same share of the tokens
    from a model of another depth or sequence length, over the same part of its layers.
    """

    order: Literal["sequence", "tome"] = "sequence"
    budget: Literal["paper", "proportional"] = "paper"


class Recipe(Settings):
    """The training recipe; the defaults are the released scripts' (paper-facts §4)."""

    epochs: Count = 300
    global_batch: Count = 512
    mixup_batch: Count = 128  # images that share one mixup draw: the released scripts' batch per GPU
    micro_batch: Count = 128  # images per backward pass; smaller saves memory and changes nothing else
    lr: Positive = 5e-4  # at a global batch of 512, scaled linearly to `global_batch`
    warmup_lr: NonNegative = 1e-6
    min_lr: NonNegative = 1e-5
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    weight_decay: NonNegative = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 1.0
    mixup_prob: Fraction = 1.0
    mixup_switch_prob: Fraction = 0.5
    label_smoothing: Fraction = 0.1
    repeats: Count = 3  # repeated augmentation: views of each drawn image per epoch
    augmentation: Literal["timm", "tensor"] = "timm"
    crop_scale: tuple[Positive, Fraction] = (0.08, 1.0)
    hflip: Fraction = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: Fraction = 0.25
    eval_resize: Count | None = 256  # shorter side before the centre crop; null: the image size itself
    eval_batch: Count = 256
    ema_decay: Fraction = 0.99996
    precision: Literal["fp32", "bf16"] = "fp32"
    cuda_graphs: bool = False  # replay the step as captured graphs: the same arithmetic without its launches
    workers: Annotated[int, Field(ge=0)] = 8  # data-loading processes; the drawn samples do not depend on it

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        if self.global_batch % self.mixup_batch or self.mixup_batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} must divide mixup_batch {self.mixup_batch}, "
                f"and that must divide global_batch {self.global_batch}"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """The linearly scaled learning rate."""
        return self.lr * self.global_batch / 512


class Cell(Settings):
    """One training: a model, a fusion schedule and a seed, with all that they need."""

    experiment: str
    protocol: Protocol
    dataset: DatasetName
    model: Name
    architecture: Architecture
    strategy: Name
    schedule: tuple[int, ...]
    fusion: Fusion
    seed: int
    recipe: Recipe
    device: Literal["auto", "cpu", "cuda"]
    threads: Count | None
    scan: str
    # one process on one node is not written: such a cell is the same as before there were others
    processes: Annotated[Count, Field(exclude_if=_is_one)] = 1
    nodes: Annotated[Count, Field(exclude_if=_is_one)] = 1

    @property
    def id(self) -> str:
        return f"{self.model}-{self.strategy}-s{self.seed}"

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Read the JSON that `Experiment.cell_json` wrote. Raises InputError."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"--cell is not JSON ({error})") from None
        return _validated(cls, data, "--cell")


class Experiment(Settings):
    """A grid of trainings, as one YAML file describes it."""

    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    protocol: Protocol
    dataset: DatasetName
    models: dict[Name, Architecture]
    strategies: Annotated[list[Name], Field(min_length=1)] = list(STRATEGIES)
    schedules: dict[Name, tuple[Annotated[int, Field(ge=0)], ...]] = {}  # strategies of your own: tokens per layer
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    fusion: Fusion = Fusion()
    recipe: Recipe = Recipe()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None  # CPU threads of each process of a training; null: all cores
    processes: Count = 1  # of one training, joined by torchrun to share each global batch: on GPUs, each has its own
    nodes: Count = 1  # machines that the processes are spread over evenly
    scan: str = "auto"
    container: str = "envs/famba-cuda.sif"
    claims: str = "config/claims.yaml"  # the ledger that the rows are judged by

    @model_validator(mode="after")
    def _strategies_known(self) -> Experiment:
        if not self.models:
            raise ValueError("models is empty: name at least one")
        for name in self.strategies:
            if name in self.schedules:
                layers = len(self.schedules[name])
                for model, architecture in self.models.items():
                    if layers != architecture.depth:
                        raise ValueError(f"schedule {name!r} has {layers} layers, {model} has {architecture.depth}")
            elif name not in STRATEGIES:
                raise ValueError(f"unknown strategy {name!r}{_nearest(name, [*STRATEGIES, *self.schedules])}")
        for what, values in (("seeds", self.seeds), ("strategies", self.strategies)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} has a value twice")
        return self

    @model_validator(mode="after")
    def _processes_divide(self) -> Experiment:
        if self.processes % self.nodes or self.recipe.global_batch % self.processes:
            raise ValueError(
                f"nodes {self.nodes} must divide processes {self.processes}, "
                f"and that must divide recipe.global_batch {self.recipe.global_batch}"
            )
        return self

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read and validate an experiment file. Raises InputError, one line naming file, key and what is wrong."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
            raise InputError(f"{path}: cannot read the experiment file ({reason})") from None
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        return cls.from_config(data, str(path))

    @classmethod
    def from_config(cls, data: Any, source: str = "configuration") -> Experiment:
        """Validate an already parsed experiment, such as Snakemake's `config`. Raises InputError."""
        if not isinstance(data, dict):
            raise InputError(f"{source}: expected a mapping of settings, found {type(data).__name__}")
        models = data.get("models")
        if isinstance(models, list):  # the short form: names of published architectures
            unknown = [name for name in models if name not in ARCHITECTURES]
            if unknown:
                raise InputError(
                    f"{source}: models: unknown model {unknown[0]!r}{_nearest(str(unknown[0]), ARCHITECTURES)}"
                )
            data = {**data, "models": {name: ARCHITECTURES[name].model_dump() for name in models}}
        return _validated(cls, data, source)

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
                raise InputError(f"{self.experiment} has no {what} {value!r}; it has {', '.join(map(str, known))}")
        architecture = self.models[model]
        if strategy_name in self.schedules:
            schedule = self.schedules[strategy_name]
        else:
            tokens = architecture.tokens if self.fusion.budget == "proportional" else None
            schedule = strategy(strategy_name, architecture.depth, tokens)
        return Cell(
            experiment=self.experiment,
            protocol=self.protocol,
            dataset=self.dataset,
            model=model,
            architecture=architecture,
            strategy=strategy_name,
            schedule=schedule,
            fusion=self.fusion,
            seed=seed,
            recipe=self.recipe,
            device=self.device,
            threads=self.threads,
            scan=self.scan,
            processes=self.processes,
            nodes=self.nodes,
        )

    def cell_by_id(self, cell_id: str) -> Cell:
        """The cell called `<model>-<strategy>-s<seed>`. Raises InputError, naming the nearest one there is."""
        cells = {cell.id: cell for cell in self.cells()}
        if cell_id not in cells:
            raise InputError(f"{self.experiment} has no cell {cell_id!r}{_nearest(cell_id, cells)}")
        return cells[cell_id]

    def cell_json(self, wildcards: Any) -> str:
        """The cell that Snakemake's wildcards (model, strategy, seed) name, as one line of JSON."""
        return self.cell(wildcards.model, wildcards.strategy, int(wildcards.seed)).model_dump_json()


def json_schema() -> dict[str, Any]:
    """JSON schema of an experiment file (published as config/schema/experiment.json)."""
    schema = Experiment.model_json_schema()
    published: dict[str, Any] = {"type": "array", "items": {"enum": list(ARCHITECTURES)}}
    schema["properties"]["models"] = {"anyOf": [schema["properties"]["models"], published], "title": "Models"}
    return schema


def _validated(cls: type[Any], data: Any, source: str) -> Any:
    """Validate, or raise one line about the first thing that is wrong."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        # a misspelt key before the required one that it leaves missing: its nearest name says both
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            message = f"unknown key{_nearest(key, _fields_at(cls, first['loc'][:-1]))}"
        else:
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] != "value_error" and first["type"] != "missing":
                message += f", found {first['input']!r}"
        raise InputError(f"{source}: {where + ': ' if where else ''}{message}") from None


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at a location inside a settings class."""
    for part in loc:
        field = cls.model_fields.get(str(part))
        annotations = [] if field is None else [field.annotation, *get_args(field.annotation)]
        cls = next((a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)), cls)
    return list(cls.model_fields)


def _nearest(name: str, known: Any) -> str:
    """`; did you mean 'x'?`, or the list of what there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
