"""The settings of a training: its model, its fusion, its recipe. The type and range of each value are checked here.

What settings ask of each other is in trainable.py, what a published protocol asks of them in protocol.py. No torch
here: Snakemake reads them at every start.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from famba.config import methods
from famba.config.presets import FREE, PRESETS, SCRIPTS, Preset, preset_of
from famba.config.validation import FOLDER_NAME, NAME, Strict, short
from famba.strategies import cls_index

ClsPosition = Literal["middle", "head"]  # Vim's and Famba-V's place of the class token in the sequence
Protocol = Literal["paper", "fast", "smoke", "custom"]  # custom: an experiment of your own, no claim about the paper


# strict: pydantic would accept the string '3' and the boolean true as numbers, and 1 as a boolean
Positive = Annotated[float, Field(gt=0, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]  # of AdamW's moments: at 1 they would divide by zero
Cosine = Annotated[float, Field(ge=-1, le=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]  # of a model: beyond, no machine holds it
Depth = Annotated[int, Field(ge=1, le=1024, strict=True)]


def _on_one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"is no line of text without control characters, found {short(text)}")
    return text


Text = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_on_one_line)]  # names of files, methods
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
# of a strategy, without a hyphen: cell ids are <model>-<strategy>-s<seed>; a folder's name has 255 characters at most
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
FolderName = Annotated[str, Field(pattern=FOLDER_NAME, max_length=100)]
ModelName = FolderName  # `Vim-B` is one, and shown as it is


def _of_a_method(value: Any) -> Any:
    """In one sentence: of a union, pydantic says what is wrong with the value as each of its types."""
    if isinstance(value, str):
        return _TEXT.validate_python(value)
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"a method's setting is a number, a text, true or false; found {short(value)}")


_TEXT = TypeAdapter(Text)
Setting = Annotated[bool | int | float | str, BeforeValidator(_of_a_method)]  # of a method


class Architecture(Strict):
    """A Vision Mamba (paper-facts §3). `embed_dim` in channels, `img_size` and `patch_size` in pixels."""

    embed_dim: Size
    depth: Depth = 24
    img_size: Size = 224
    patch_size: Size = 16
    stride: Size | None = None  # between patches; null: patch_size
    d_state: Size = 16
    d_conv: Size = 4
    expand: Size = 2
    cls_position: ClsPosition = "middle"

    @model_validator(mode="after")
    def _patches_divide(self) -> Architecture:
        if self.img_size < self.patch_size or (self.stride is None and self.img_size % self.patch_size):
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def tokens(self) -> int:
        """Length of the token sequence, class token included."""
        return ((self.img_size - self.patch_size) // (self.stride or self.patch_size) + 1) ** 2 + 1

    @property
    def cls_index(self) -> int:
        """Where the class token enters the sequence."""
        return cls_index(self.tokens - 1, self.cls_position)


ARCHITECTURES = {
    "vim_tiny": Architecture(embed_dim=192),  # 6,974,308 parameters at 100 classes
    "vim_small": Architecture(embed_dim=384),  # 25,450,084
}


class Fusion(Strict):
    """How tokens are fused (paper-facts §2).

    `budget: paper` takes the paper's tokens per layer as they are; `proportional` removes the same share of the tokens
    from a model of another depth or sequence length, over the same part of its layers, as far as half of a layer's
    tokens go: of few layers or tokens it may remove a little less.

    `method`, `settings`, `placement`: what becomes of the tokens (famba/methods/): a method's name, an installed entry
    point, or FILE.py:Class; its settings; where it acts, null for the method's own place. `code`, which an experiment
    does not name, says which code that was: see `methods.code_of`.
    """

    order: Literal["sequence", "tome"] = "sequence"
    budget: Literal["paper", "proportional"] = "paper"
    method: Annotated[Text, Field(exclude_if=lambda name: name == methods.DEFAULT)] = methods.DEFAULT
    settings: Annotated[dict[str, Setting], Field(exclude_if=lambda settings: not settings)] = Field(default={})
    placement: Annotated[methods.Placement | None, Field(exclude_if=lambda place: place is None)] = None
    code: Annotated[str | None, Field(exclude_if=lambda code: code is None)] = None

    @property
    def late(self) -> bool:
        """Whether the mixer of a layer still sees the tokens that go there."""
        return self.acts in methods.LATE

    @property
    def acts(self) -> methods.Placement:
        """Where in the block: the placement that is given, else the method's own; "before" of one of your own."""
        return self.placement or methods.PLACEMENTS.get(self.method, "before")

    @property
    def varies(self) -> bool:
        """Whether a threshold decides how many tokens go from each image: the schedule is then the most that do."""
        return "threshold" in self.settings

    @property
    def is_published(self) -> bool:
        """Whether it is Famba-V's own method, with none of its settings changed."""
        return (self.method, self.settings, self.placement, self.code) == (methods.DEFAULT, {}, None, None)


class Recipe(Strict):
    """The training recipe; the defaults are the released scripts' (paper-facts §4).

    Built from a preset's name, or from a mapping whose `preset` gives the settings that it does not name. `preset` then
    says which preset the recipe is: `custom` once a setting differs that changes what is computed.
    """

    epochs: Count = 300
    global_batch: Count = 512
    mixup_batch: Count = 128  # images that share one mixup draw: the released scripts' batch per GPU
    micro_batch: Count = 128  # images per backward pass; smaller saves memory and changes nothing else
    lr: Positive = 5e-4  # at a global batch of 512, scaled linearly to `global_batch`
    warmup_lr: NonNegative = 1e-6
    min_lr: NonNegative = 1e-5
    warmup_epochs: Whole = 5
    sched_on_updates: Flag = False  # the rate advances per optimiser step, not per epoch; `smoke`, `custom`: true
    weight_decay: NonNegative = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 1.0
    mixup_prob: Fraction = 1.0
    mixup_switch_prob: Fraction = 0.5
    label_smoothing: Fraction = 0.1
    repeats: Count = 3  # repeated augmentation: views of each drawn image per epoch
    # optimiser steps in an epoch, for a short fine-tuning; null: as many as the images give. Old rows have no such key
    steps_per_epoch: Annotated[Count | None, Field(exclude_if=lambda steps: steps is None)] = None
    augmentation: Literal["timm", "tensor"] = "timm"
    crop_scale: tuple[Positive, Fraction] = (0.08, 1.0)  # least and largest share of the image
    hflip: Fraction = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: Fraction = 0.25
    eval_resize: Count | None = 256  # shorter side before the centre crop; null: the image size itself
    eval_batch: Count = 256
    ema_decay: Fraction = 0.99996
    precision: Literal["fp32", "bf16"] = "fp32"
    cuda_graphs: Flag = False  # replay the step as captured graphs: the same arithmetic without its launches
    workers: Whole = 8  # data-loading processes; the drawn samples do not depend on it
    # checkpoint to start from, seen from where the training runs, `{seed}` in it the cell's seed; null: random weights.
    # Rows of before have no such key
    init: Annotated[Text | None, Field(exclude_if=lambda path: path is None)] = None
    preset: Preset = SCRIPTS  # the last: of two recipes that differ, the setting itself is named first

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        preset = data.get("preset") if isinstance(data, dict) else None
        return {**PRESETS[preset], **data} if isinstance(preset, str) and preset in PRESETS else data

    @model_validator(mode="after")
    def _named(self) -> Recipe:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        self.__dict__["preset"] = preset_of(self.__dict__, defaults)
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        if self.global_batch % self.mixup_batch or self.mixup_batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} must divide mixup_batch {self.mixup_batch}, "
                f"and that must divide global_batch {self.global_batch}"
            )
        return self

    @property
    def identity(self) -> str:
        """What two recipes have in common that compute the same: every setting but those of speed and memory."""
        return self.model_dump_json(exclude=set(FREE))

    @property
    def peak_lr(self) -> float:
        """The linearly scaled learning rate."""
        return self.lr * self.global_batch / 512
