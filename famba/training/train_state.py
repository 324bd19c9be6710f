"""What a training changes, built from its cell: model, optimiser, moving average; and the step that changes it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from famba.config import Cell
from famba.config.methods import LATE, code_of
from famba.errors import InputError
from famba.model import VisionMamba
from famba.ops.types import Autocast
from famba.training import initial, optim
from famba.training.distributed import Processes
from famba.training.ema import Ema
from famba.training.evaluate import CapturedForward, Forward
from famba.training.step import CapturedStep, Step


@dataclass(frozen=True)
class TrainState:
    """Model, optimiser and moving average, with the training step and the evaluation's forward pass over them.

    `loaded`: a line for each thing taken, dropped, moved and resized of initial weights.
    """

    model: VisionMamba
    optimizer: torch.optim.AdamW
    ema: Ema
    step: Step
    forward: Forward
    autocast: Autocast
    loaded: tuple[str, ...] = ()

    @property
    def lr(self) -> float:
        """The learning rate of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": optim.state_dict(self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        optim.load_state_dict(self.optimizer, state["optimizer"])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of `state_dict`, by what they are."""
        parameters = dict(self.model.named_parameters())
        moments = {
            f"the optimiser's {key} of {name}": value
            for name, parameter in parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        averages = {f"the moving average of {name}": value for name, value in self.ema.state_dict().items()}
        return {f"parameter {name}": parameter for name, parameter in parameters.items()} | averages | moments


def build(
    cell: Cell, device: torch.device, scan: str, classes: int, world: Processes | None = None, init: Path | None = None
) -> TrainState:
    """The state of a cell's training before its first step, on a device, under the random state at hand.

    scan: the backend. classes: of the data set. world: the processes that share a global batch; None: this one alone.
    init: checkpoint to start from; None: random weights. Raises InputError for one that does not fit.
    """
    recipe = cell.recipe
    if cell.fusion.code is not None and (found := code_of(cell.fusion.method)) != cell.fusion.code:
        raise InputError(f"method {cell.fusion.method}: this cell is one of {cell.fusion.code}, and here is {found}")
    model = VisionMamba(
        **cell.architecture.model_dump(),
        num_classes=classes,
        fusion=cell.schedule,
        **cell.fusion.model_dump(include={"order", "method", "settings", "placement"}),
        scan=scan,
    ).to(device)
    for block in model.blocks:
        if block.method is not None and (block.method.placement in LATE) != cell.fusion.late:
            place = block.method.placement
            raise InputError(
                f"schedules.{cell.strategy}: {cell.fusion.method} acts at {place!r}: say placement: {place}"
            )
    loaded = () if init is None else initial.load(init, model)
    ema, optimizer = Ema(model, recipe.ema_decay), optim.optimizer(model, recipe)
    autocast = partial(_autocast, device.type, recipe.precision == "bf16")
    captured = recipe.cuda_graphs and device.type == "cuda"
    step = (CapturedStep if captured else Step)(model, optimizer, ema, recipe, autocast, world or Processes())
    forward = (CapturedForward if captured else Forward)(model, autocast)
    return TrainState(model, optimizer, ema, step, forward, autocast, loaded)


def _autocast(device_type: str, enabled: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled)
