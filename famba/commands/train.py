"""`famba train`: one cell, by hand, by Snakemake or under torchrun; alone in its folder, and never over a result."""

import argparse
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from famba.config import Cell, Experiment
from famba.config.datasets import DATA_HELP, data_folder
from famba.config.validation import flat
from famba.cost import memory
from famba.errors import CheckFailed, InputError
from famba.results.row import read_row
from famba.system.device import pick_device, torchrun_number
from famba.training import checkpoint, evaluate, initial
from famba.training.distributed import launch, processes, require_start
from famba.training.lock import exclusive
from famba.training.progress import Progress
from famba.training.status import OUT_OF_MEMORY, cell_state, read_status
from famba.training.stop import stop_request
from famba.training.train import Training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba train`."""
    parser.description = (
        "Train one cell. It resumes from its checkpoint if it was stopped; a cell that is finished is left "
        "alone. Example: famba train --config config/smoke.yaml --cell vim_tiny_mini-upper-s0"
    )
    parser.add_argument("--config", metavar="FILE", help="experiment file that the cell belongs to")
    parser.add_argument("--cell", required=True, metavar="ID", help="<model>-<strategy>-s<seed>, or a cell as JSON")
    parser.add_argument("--out", type=Path, metavar="ROW", help="result row [results/<experiment>/cells/<id>/row.json]")
    parser.add_argument("--force", action="store_true", help="train a finished cell again and replace its result")
    parser.add_argument("--init", type=Path, metavar="FILE", help="start from these weights instead of the seed's")
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write the progress there, a line a minute")
    parser.add_argument("--data", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)
    parser.add_argument(
        "--check-every-step", action="store_true", help="on a GPU too, check every step for NaN and name its source"
    )
    parser.add_argument("--rendezvous", metavar="HOST:PORT", help="where the nodes of a cell that takes several meet")


def main(args: argparse.Namespace) -> int:
    cell = _named(args)
    row = args.out or Path("results", cell.experiment, "cells", cell.id, "row.json")
    if row.name != "row.json":
        raise InputError(f"--out {row}: a cell's row is called row.json, and its other files stand beside it")
    if args.rendezvous and cell.nodes == 1:
        raise InputError(f"--rendezvous: {cell.id} takes one node, which meets no other; leave it out")
    world_size, rank = torchrun_number("WORLD_SIZE", 1), torchrun_number("RANK", 0)
    launches = world_size == 1 < cell.processes
    # before the ranks start there is no rank 0 among several nodes, so nobody takes the lock here
    holds = rank == 0 and (world_size > 1 or cell.nodes == 1)
    with exclusive(row.parent) if holds else nullcontext() as lock:
        if holds:
            checkpoint.remove_partial(row.parent)
        init = initial.chosen(cell, args.init)
        if not args.force and _is_finished(cell, row, init, silent=rank > 0):
            return 0
        before = cell_state(row.parent) if holds else None
        progress = Progress(cell.id, cell.recipe.epochs, args.log, row.parent, silent=rank > 0)
        if before is not None and before.kind == "died":
            lacked = before.note == OUT_OF_MEMORY
            advice = f": {memory.remedy(cell, pick_device(cell.device), False)}" if lacked else ""
            progress.say(f"{cell.id}: the run before was {before.note}{advice}")
        with progress.recorded(ends=not launches), _named_rank(rank), report_out_of_memory(cell):
            device = pick_device(cell.device)
            if launches:
                require_start(device, cell.processes, cell.nodes, args.rendezvous)
            elif world_size != cell.processes:
                raise InputError(
                    f"{cell.id} is for {cell.processes} processes, not {world_size}: set `processes` in its experiment"
                )
            else:
                with processes(device) as world, stop_request() as stop:
                    check = args.check_every_step
                    Training(cell, row.parent, args.data, progress, world, args.init, stop, check, lock).run()
    return _of_ranks(args, cell, row) if launches else 0


def _of_ranks(args: argparse.Namespace, cell: Cell, row: Path) -> int:
    """Train in several processes, the first of which takes the lock; the exit status, of one process or of several."""
    ended = launch(_again(args, cell, row), cell.processes, cell.nodes, args.rendezvous)
    status = read_status(row.parent)
    if ended.killed:
        print(f"famba: {cell.id}: {ended.killed}", file=sys.stderr)
    elif not (status and status.state == "failed"):  # else the first one has failed too, and said why
        print(ended.said, end="", file=sys.stderr)
    return ended.status


def _again(args: argparse.Namespace, cell: Cell, row: Path) -> list[str]:
    """The arguments of the same command in a process of several."""
    given = {"--data": args.data, "--log": args.log, "--init": args.init}
    flags = {"--force": args.force, "--check-every-step": args.check_every_step}
    return [
        *("train", "--cell", cell.model_dump_json(), "--out", str(row)),
        *(part for name, value in given.items() if value for part in (name, str(value))),
        *(name for name, wanted in flags.items() if wanted),
    ]


@contextmanager
def _named_rank(rank: int) -> Iterator[None]:
    """Only rank 0 writes status and log; another that fails names itself on the terminal."""
    try:
        yield
    except (InputError, CheckFailed) as error:
        if rank == 0:
            raise
        raise type(error)(f"rank {rank}: {error}") from None


def _named(args: argparse.Namespace) -> Cell:
    if args.cell.lstrip().startswith("{"):
        if args.config:
            raise InputError(f"--config {args.config}: a cell as JSON has all its settings; leave one of the two out")
        return Cell.from_json(args.cell)
    if not args.config:
        raise InputError(f"--cell {args.cell}: name the experiment it belongs to with --config, or give it as JSON")
    return Experiment.load(args.config).cell_by_id(args.cell)


def _is_finished(cell: Cell, path: Path, init: Path | None, silent: bool) -> bool:
    """Whether the result of this very cell is there. Raises InputError where one of other settings is.

    A checkpoint beside a row is of a stopped training that was to replace it: that one is resumed.
    """
    if not path.exists() or checkpoint.present(path.parent):
        return False
    row = read_row(path)
    if row.cell != cell:
        raise InputError(
            f"{path}: the result of other settings ({_difference(row.cell, cell)}); --force replaces it, --out with "
            "another folder keeps both"
        )
    if row.init != initial.identify(init):
        raise InputError(
            f"{path}: the result of other initial weights ({row.init.weights}); --force replaces it, --out with "
            "another folder keeps both"
        )
    if not silent:
        print(
            f"{path}: finished with these settings (top-1 {row.metrics.last.top1:.1f} %, {row.finished}); "
            "--force trains the cell anew"
        )
    return True


def _difference(recorded: Cell, cell: Cell) -> str:
    """The first setting in which they differ: `recipe.epochs 10, now 300`."""
    then, now = (flat(one.model_dump()) for one in (recorded, cell))
    name = next(name for name in then | now if then.get(name) != now.get(name))
    return f"{name} {then.get(name)}, now {now.get(name)}"


@contextmanager
def report_out_of_memory(cell: Cell) -> Iterator[None]:
    """A model or batch that does not fit is bad input, not a defect."""

    def advice(error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        evaluating = any(frame.filename == evaluate.__file__ for frame in frames)
        return memory.remedy(cell, pick_device(cell.device), evaluating)

    with memory.reported(cell.id, advice):
        yield
