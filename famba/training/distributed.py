"""One cell on several processes: torch's elastic agent, which starts them, their ranks, and the sums over them.

Each process works on its part of every global batch (see data/loader.py) with a loss divided by the whole batch's size,
so gradients add up to one process's; no wrapper around the model is needed.
"""

import ctypes
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from famba.errors import InputError
from famba.system.device import torchrun_number
from famba.training.stop import SIGNALS

# for the ranks to end after a signal, then SIGKILL: they finish an evaluation and save a checkpoint first
_SHUTDOWN_S = 300
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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


@dataclass(frozen=True)
class Ended:
    """How the ranks of this node ended: an exit status, and a line for the terminal if one of them was killed.

    `said`: by a rank other than the first, where that one failed before all others.
    """

    status: int
    killed: str = ""
    said: str = ""


def require_start(device: torch.device, processes: int, nodes: int, rendezvous: str | None) -> None:
    """Raises InputError when this node has too few GPUs, or when the other nodes could not be found."""
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


def launch(command: Sequence[str], processes: int, nodes: int = 1, rendezvous: str | None = None) -> Ended:
    """Run a famba command once in each process of this node, and wait for them.

    A signal that asks to stop goes on to the ranks; so does the end of one that fails.

    Args:
        command: arguments of `famba`.
        processes, nodes: in all; every node starts its equal part.
        rendezvous: HOST:PORT of one of the nodes where the others find each other; one node alone needs none.

    Raises InputError when the nodes do not meet.
    """
    # they load seconds of modules that no training needs
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.elastic.rendezvous import RendezvousError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    here = processes // nodes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // here)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SHUTDOWN_S))
    with tempfile.TemporaryDirectory(prefix="famba-ranks-") as scratch:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=here,
            run_id="famba",
            rdzv_backend="c10d",
            rdzv_endpoint=rendezvous or "localhost:0",
            max_restarts=0,  # Snakemake and SLURM start it again
            signals_to_handle=",".join(f"SIG{name}" for name in ("TERM", "USR1", "INT", "HUP", "QUIT")),
            # what all ranks say, the first one says on the terminal
            logs_specs=DefaultLogsSpecs(scratch, redirects=dict.fromkeys(range(1, here), Std.ERR)),
        )
        logging.disable(logging.ERROR)  # the agent's own account of what the ranks say in a line
        try:
            elastic_launch(config, sys.executable)("-m", "famba", *command)
        except SignalException as asked:
            return Ended(128 + asked.sigval)
        except ChildFailedError as failed:
            rank, first = failed.get_first_failure()
            if first.exitcode < 0:
                by = signal.Signals(-first.exitcode)
                line = f"rank {rank} was killed by {by.name}; run it again to resume from the last checkpoint"
                return Ended(128 + by, "" if by in SIGNALS else line)
            files = sorted(Path(scratch).glob(f"*/*/{first.local_rank}/stderr.log"))
            return Ended(first.exitcode, said=files[0].read_text(errors="replace") if files else "")
        except RendezvousError as error:
            raise InputError(f"--rendezvous {rendezvous}: the {nodes} nodes do not meet there ({error})") from None
        finally:
            logging.disable(logging.NOTSET)
    return Ended(0)


def _end_with_the_launcher() -> None:
    """Have this rank asked to stop where its launcher is killed: without it, a rank would go on by itself."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun's environment describes, joined for the length of the context; else one alone.

    NCCL between GPUs, gloo between CPUs.
    """
    world_size = torchrun_number("WORLD_SIZE", 1)
    if world_size == 1:
        yield Processes()
        return
    _end_with_the_launcher()
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
