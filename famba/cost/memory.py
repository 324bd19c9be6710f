"""Memory that ran out, in one line: what a batch needs by the cost model, what is there, and which batch fits."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from famba.config import Cell
from famba.errors import InputError
from famba.flops import StepCost, step_cost
from famba.system import memory

# What allocators take beyond the counted bytes: a step on a CPU was measured at 1.27 to 1.43 times them.
MARGIN = 1.4
# Of the host: Python with torch and a small data set, 411 MiB measured, and what evaluation and pairs of steps add:
# peaks of 661, 769 and 1,363 MiB were measured where 686, 816 and 1,602 are predicted.
PROCESS_BYTES = 550 << 20


# how CPU, CUDA, cuBLAS and C++ say that there is no memory, and torch that there is no such number of bytes
_REFUSED = re.compile(
    r"can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc|Storage size calculation overflowed|"
    r"numel: integer multiplication overflow"
)


@contextmanager
def reported(what: str, advice: Callable[[BaseException], str]) -> Iterator[None]:
    """A model or batch that does not fit is bad input, not a defect: raises InputError, with one clause of advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise InputError(told(what, error, advice(error))) from None


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _REFUSED.search(str(error)) is not None


def told(what: str, error: BaseException, advice: str) -> str:
    """The line about memory that ran out."""
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), flags=re.IGNORECASE)
    return f"{what}: does not fit into memory{f' (it asked for {asked[1]})' if asked else ''}: {advice}"


def lack(error: BaseException) -> str:
    """The advice where no setting is known to be the one that is too large."""
    here = available_bytes(torch.device("cuda" if isinstance(error, torch.OutOfMemoryError) else "cpu"))
    return f"{'' if here is None else f'{_gib(here)} are here; '}take a larger device, or a smaller batch or model"


def remedy(cell: Cell, device: torch.device, evaluating: bool) -> str:
    """One clause: what the batch needs, what is there, and the largest one that fits.

    `evaluating`: the evaluation's batch did not fit, not a micro-batch of the training.
    """
    if evaluating:
        return forward_remedy(cell, device, "recipe.eval_batch", cell.recipe.eval_batch)
    return step_remedy(cell, device, "recipe.micro_batch")


def step_remedy(cell: Cell, device: torch.device, name: str) -> str:
    """The same of a training step, whose micro-batch the setting `name` is."""
    step = _counted(cell, device)
    per_image = step.saved_per_image + step.transient
    return _clause(device, name, cell.images_per_pass, step.state_bytes, per_image, cell.recipe.mixup_batch)


def forward_remedy(cell: Cell, device: torch.device, name: str, batch: int) -> str:
    """The same of a pass without gradients of `batch` images, which the setting `name` is."""
    step = _counted(cell, device)
    return _clause(device, name, batch, step.state_bytes, step.transient)


def _counted(cell: Cell, device: torch.device) -> StepCost:
    backend = ("triton" if device.type == "cuda" else "cpu") if cell.scan == "auto" else cell.scan
    return step_cost(cell, cell.sizes.classes, backend)


def _clause(device: torch.device, name: str, batch: int, state: float, per_image: float, divided: int = 0) -> str:
    """`divided`: what a batch must divide."""
    process = 0 if device.type == "cuda" else PROCESS_BYTES

    def needed(images: int) -> float:
        return process + MARGIN * (state + images * per_image)

    here = available_bytes(device)
    there = "" if here is None else f" of the {_gib(here)} here"
    asked = f"{name} {batch} needs about {_gib(needed(batch))}{there}, by the arithmetic of famba plan"
    most = batch - 1
    if here is not None:  # not one by one: the batch may be any number
        most = min(most, int(max(here - needed(0), 0) / (MARGIN * per_image)) + 1)
    smaller = (images for images in range(most, 0, -1) if divided % images == 0)
    is_free = name.startswith("recipe.")  # of an option the result is another: it is measured at that batch
    fitting = next((images for images in smaller if here is None or needed(images) <= here), None)
    if fitting is None:
        return f"{asked}, and no smaller one fits: take a larger device or a smaller model"
    return f"{asked}; {fitting} needs about {_gib(needed(fitting))}{' and changes nothing else' if is_free else ''}"


def available_bytes(device: torch.device) -> int | None:
    """Memory that this process can have on the device, what it holds now included; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return memory.available_bytes()


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"
