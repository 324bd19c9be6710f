"""One cell on several processes: torchrun, which starts them, their ranks, and the sums over them.

Each process works on its part of every global batch (see data/loader.py) with a loss divided by the whole batch's size,
so gradients add up to one process's; no wrapper around the model is needed.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from famba.errors import InputError


@dataclass(frozen=True)
class Processes:
    """This process's rank and the number of ranks."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def all_sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def all_max(self, value: int, device: torch.device) -> int:
        """The largest value that any process has."""
        if self.world_size == 1:
            return value
        held = torch.tensor(value, device=device)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

    def barrier(self, device: torch.device) -> None:
        """Wait until every process has come here."""
        self.all_max(0, device)


def launch(
    command: Sequence[str], device: torch.device, processes: int, nodes: int = 1, rendezvous: str | None = None
) -> NoReturn:
    """Become torchrun, which runs a famba command once in each process of this node.

    Args:
        command: arguments of `famba`.
        processes, nodes: in all; every node starts its equal part.
        rendezvous: HOST:PORT of one of the nodes where the others find each other; one node alone needs none.

    Raises InputError when this node has too few GPUs, or when the other nodes cannot be found.
    """
    here = processes // nodes
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise InputError(
            f"processes: {here} on this node, each with a GPU of its own, but there are {torch.cuda.device_count()}"
        )
    if nodes > 1 and rendezvous is None:
        raise InputError(
            f"nodes: this training takes {nodes}; start this very command on each of them, with --rendezvous HOST:PORT "
            "naming one of them (under SLURM the pipeline does that: docs/cluster.md)"
        )
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(rendezvous)] if nodes > 1 else ["--standalone"]
    count = ["--nnodes", str(nodes), "--nproc-per-node", str(here)]
    # torchrun would set one thread each
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // here)))
    # `--`: torchrun would take --log for one of its own
    run = [sys.executable, "-m", "torch.distributed.run", *meet, *count, "-m", "--", "famba", *command]
    os.execv(sys.executable, run)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun's environment describes, joined for the length of the context; else one alone.

    NCCL between GPUs, gloo between CPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"process {device.index} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                "start torchrun with --nproc-per-node that many"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()
