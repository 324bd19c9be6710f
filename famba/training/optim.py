"""The recipe's learning rate, weight decay, optimiser and loss.

They are the released Famba-V scripts' (paper-facts §4), which run DeiT's main.py with timm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from famba.config import Recipe

NO_DECAY = ("pos_embed", "cls_token")


def learning_rate(recipe: Recipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of an epoch's step, both counted from 0; `steps`: optimiser steps in an epoch.

    timm's cosine with linear warm-up, in which the cosine is not shifted by the warm-up. With `sched_on_updates` it
    advances at every optimiser step (timm's --sched-on-updates). Without, it advances once an epoch as in DeiT, after
    the epoch: epoch e >= 1 runs at schedule(e - 1), and epochs 0 and 1 both run at `warmup_lr`.
    """
    t = epoch + step / steps if recipe.sched_on_updates else max(epoch - 1, 0)
    if t < recipe.warmup_epochs:
        return recipe.warmup_lr + t * (recipe.peak_lr - recipe.warmup_lr) / recipe.warmup_epochs
    return recipe.min_lr + 0.5 * (recipe.peak_lr - recipe.min_lr) * (1 + math.cos(math.pi * t / recipe.epochs))


_SLOW, SLOW_LIMIT = 0.1, 0.21  # of the peak; of the steps: a plain cosine to zero alone has 20.5 % below a tenth


@dataclass(frozen=True)
class Rates:
    """The learning rates that a training will run.

    first, peak, last: rates. peak_step: the first step at the peak, from 0, of `steps`. slow: share of the steps that
    run below a tenth of the rate that the recipe asks for, which a short training may never reach.
    """

    first: float
    peak: float
    last: float
    peak_step: int
    steps: int
    slow: float

    @property
    def warning(self) -> str | None:
        """That many steps hardly learn, if many do."""
        if self.slow <= SLOW_LIMIT:
            return None
        return (
            f"{self.slow:.0%} of the steps run below a tenth of the recipe's peak rate and hardly learn; "
            "fewer warmup_epochs or a higher warmup_lr or min_lr change that"
        )

    def __str__(self) -> str:
        return (
            f"learning rate: {self.first:.3g} first, {self.peak:.3g} at most (step {self.peak_step + 1:,} of "
            f"{self.steps:,}), {self.last:.3g} last; {self.slow:.1%} of the steps below a tenth of the recipe's peak"
        )


def rates(recipe: Recipe, steps: int) -> Rates:
    """The rates of a training of `steps` optimiser steps an epoch."""
    every = [learning_rate(recipe, epoch, step, steps) for epoch in range(recipe.epochs) for step in range(steps)]
    peak = max(every)
    slow = sum(lr < _SLOW * recipe.peak_lr for lr in every) / len(every)
    return Rates(every[0], peak, every[-1], every.index(peak), len(every), slow)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for the optimiser: decayed parameters, and those that are not.

    Vectors, biases, the position embedding and the class token are not decayed. A_log is a matrix and is decayed: the
    released code ignores the flag on it (paper-facts §5.15).
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.endswith(".bias") or name.rpartition(".")[2] in NO_DECAY
            groups[not exempt].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused into one kernel; starts at the rate of the first step.

    For CUDA graphs the rate is a tensor, which `set_learning_rate` fills in place.
    """
    device = next(model.parameters()).device
    captured = recipe.cuda_graphs and device.type == "cuda"
    lr = learning_rate(recipe, 0)
    return torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=torch.tensor(lr, device=device) if captured else lr,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=device.type in ("cpu", "cuda"),
        capturable=captured,
    )


def set_learning_rate(optimizer: torch.optim.AdamW, lr: float) -> None:
    """Put a rate in force for all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def state_dict(optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """What a checkpoint holds of it: `optimizer.state_dict()` with the rate as a number, captured or not."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_state_dict(optimizer: torch.optim.AdamW, state: Mapping[str, Any]) -> None:
    """Take over moments and rate. All else stays its own: a rate that is a tensor is filled, and stays one."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    set_learning_rate(optimizer, state["param_groups"][0]["lr"])


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits (B, classes) against soft targets (B, classes), in float32; the mean over the batch."""
    return nn.functional.cross_entropy(logits.float(), targets)
