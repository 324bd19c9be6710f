"""What a batch that did not fit into memory needs by the cost model, what is there, and which batch fits."""

import torch

from famba.config import Cell
from famba.flops import step_cost
from famba.system import memory

# What allocators take beyond the counted bytes: a step on a CPU was measured at 1.27 to 1.43 times them.
MARGIN = 1.4
# Of the host: Python with torch and a small data set, 411 MiB measured, and what evaluation and pairs of steps add:
# peaks of 661, 769 and 1,363 MiB were measured where 686, 816 and 1,602 are predicted.
PROCESS_BYTES = 550 << 20


def remedy(cell: Cell, device: torch.device, evaluating: bool) -> str:
    """One clause: what the batch needs, what is there, and the largest one that fits.

    `evaluating`: the evaluation's batch did not fit, not a micro-batch of the training.
    """
    backend = ("triton" if device.type == "cuda" else "cpu") if cell.scan == "auto" else cell.scan
    step = step_cost(cell, cell.sizes.classes, backend)
    process = 0 if device.type == "cuda" else PROCESS_BYTES
    if evaluating:
        name, batch, divided = "eval_batch", cell.recipe.eval_batch, 0
        per_image = step.transient
    else:
        name, batch, divided = "micro_batch", cell.images_per_pass, cell.recipe.mixup_batch
        per_image = step.saved_per_image + step.transient

    def needed(images: int) -> float:
        return process + MARGIN * (step.state_bytes + images * per_image)

    here = available_bytes(device)
    there = "" if here is None else f" of the {_gib(here)} here"
    asked = f"recipe.{name} {batch} needs about {_gib(needed(batch))}{there}, by the arithmetic of famba plan"
    smaller = (images for images in range(batch - 1, 0, -1) if divided % images == 0)
    fitting = next((images for images in smaller if here is None or needed(images) <= here), None)
    if fitting is None:
        return f"{asked}, and no smaller one fits: take a larger device or a smaller model"
    return f"{asked}; {fitting} needs about {_gib(needed(fitting))} and changes nothing else"


def available_bytes(device: torch.device) -> int | None:
    """Memory that this process can have on the device, what it holds now included; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return memory.available_bytes()


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
