"""Train the five strategies of Vim-Ti on real CIFAR-100, for as many epochs as fit into the minutes of one GPU.

    python benchmarks/gpu_training.py --data data --out run --minutes 25 --limit 9 --pack back
    python benchmarks/gpu_training.py --device cpu --quick --out run --minutes 4 --limit 2 --pack back    # a rehearsal

The first call times a few steps of each strategy, fixes the number of epochs, the same for all, and writes
run/experiment.yaml and run/plan.json. Then, and in each further call with the same arguments, `famba train` trains one
cell after another. A call ends when the cells are done or `--limit` minutes are over, with exit status 0 and a list of
what is left. `--pack` writes what is to be brought back to a folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from gpu_training_pack import pack
from gpu_training_times import RECIPE_EPOCHS, epochs_that_fit, measure

from famba.config import Cell, Experiment
from famba.config.datasets import DATA_HELP, data_folder
from famba.errors import CheckFailed, InputError
from famba.files import atomic_file
from famba.system.device import ROOT
from famba.training.status import CellState, cell_state

RECIPE_EMA = 0.99996  # of the released recipe
PACKING_S = 10  # of each call, left for a last checkpoint and `pack`
_WRITTEN = "# Written by benchmarks/gpu_training.py.\n"
_FULL = """\
# The settings of config/fast.yaml but for these: one model, one seed, {epochs} epochs; warm-up over a tenth of them; a
# moving average as long as the recipe's in proportion to the training; a learning rate that advances per step. Protocol
# `fast` fixes 300 epochs, so the experiment is protocol `custom`: its rows are not compared with the published numbers.
"""
_TOY = "# A rehearsal: a toy model on scikit-learn's digits with the settings of config/smoke.yaml, {epochs} epochs.\n"


def main() -> int:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through `finally`, with no training left behind
    try:
        if args.measure:
            cells = settings(args.quick, args.device, 10).cells()
            args.measure.write_text(json.dumps(measure(cells, args.data, args.out)))
            return 0
        return run(args)
    except (InputError, CheckFailed) as error:
        print(f"gpu_training: error: {error}", file=sys.stderr)
        return error.exit_code


def run(args: argparse.Namespace) -> int:
    """One call: the plan if there is none, training until the limit, packing."""
    began = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    plan = read_plan(args) or make_plan(args, began)
    config = args.out / "experiment.yaml"
    cells = Experiment.load(config).cells()
    failed = train_all(cells, config, args, plan, deadline=began + args.limit * 60 - PACKING_S)
    states = {cell.id: cell_state(args.out / "cells" / cell.id) for cell in cells}
    left = [_where(state) for state in states.values() if state.kind != "done"]
    call = {"started": started, "limit_s": args.limit * 60, "seconds": time.monotonic() - began}
    plan["calls"].append({**call, "failed": failed, "left": left})
    _write_json(args.out / "plan.json", plan)
    if args.pack:
        pack(args.out, args.pack, args.weights)
    used = sum(call["seconds"] for call in plan["calls"]) / 60
    print(f"{len(cells) - len(left)} of {len(cells)} cells done; {used:.1f} of {args.minutes:g} minutes used")
    for line in left:
        print(f"left: {line}")
    if left:
        print("the same command continues")
    if failed:
        raise CheckFailed(f"{', '.join(failed)} failed; see the lines above")
    return 0


def settings(quick: bool, device: str, epochs: int) -> Experiment:
    """The experiment of so many epochs."""
    return Experiment.from_config(_settings(quick, device, epochs), "gpu_training")


def _settings(quick: bool, device: str, epochs: int) -> dict[str, Any]:
    base = Experiment.read(ROOT / "config" / ("smoke.yaml" if quick else "fast.yaml"))
    changes: dict[str, Any] = {"experiment": "gpu_training", "seeds": [0], "device": device}
    if quick:
        changes["models"] = {"vim_toy": {"embed_dim": 32, "depth": 4, "img_size": 32, "patch_size": 8}}
        batches = dict.fromkeys(("global_batch", "mixup_batch", "micro_batch"), 128)
        recipe = {"epochs": epochs, "warmup_epochs": 1 if epochs > 1 else 0, **batches}
    else:
        changes |= {"protocol": "custom", "models": ["vim_tiny"]}
        recipe = {
            "epochs": epochs,
            "warmup_epochs": max(1, epochs // 10),
            "ema_decay": round(RECIPE_EMA ** (RECIPE_EPOCHS / epochs), 6),
        }
    return {**base, **changes, "recipe": {**base["recipe"], **recipe}}


def read_plan(args: argparse.Namespace) -> dict[str, Any] | None:
    """The plan of an earlier call; None if there is none. Raises InputError if it was made for other arguments."""
    path = args.out / "plan.json"
    if not path.exists():
        return None
    plan = json.loads(path.read_text(encoding="utf-8"))
    for key, value in _fixed(args).items():
        if plan["arguments"][key] != value:
            raise InputError(f"{path}: made with --{key} {plan['arguments'][key]}, now {value}; choose another --out")
    return plan


def make_plan(args: argparse.Namespace, began: float) -> dict[str, Any]:
    """Time the strategies, decide the epochs, and write experiment.yaml and plan.json. Raises InputError."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "measured.json"
    quick = ["--quick"] if args.quick else []
    command = [sys.executable, __file__, "--measure", str(path), "--device", args.device, *quick]
    launched = time.monotonic()
    # in a process of its own, so that this one takes nothing from the GPU that the cells train on
    done = subprocess.run([*command, "--out", str(args.out), "--data", str(args.data)], env=_env(), check=False)
    if done.returncode:
        raise InputError("the strategies could not be timed; see the lines above")
    measured = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    timed = measured["strategies"]
    outside_s = time.monotonic() - launched - sum(one["whole_s"] for one in timed.values())
    # the median: the first of them compiles the kernels, which are cached on disk from then on
    start_s = outside_s + statistics.median(one["setup_s"] for one in timed.values())
    epoch_s = {name: one["epoch_s"] for name, one in timed.items()}
    starts = len(epoch_s) + math.ceil(args.minutes / args.limit) - 1
    packing_s = PACKING_S * math.ceil(args.minutes / args.limit)
    spent_s = time.monotonic() - began + packing_s
    epochs, why = epochs_that_fit(args.minutes * 60, spent_s, epoch_s, start_s, starts)
    print(why)
    plan = {
        "arguments": _fixed(args),
        "epochs": epochs,
        "why": why,
        "start_s": start_s,
        **measured,
        "calls": [],
    }
    experiment = _settings(args.quick, args.device, epochs)
    Experiment.from_config(experiment, "gpu_training")
    header = _WRITTEN + (_TOY if args.quick else _FULL).format(epochs=epochs)
    with atomic_file(args.out / "experiment.yaml") as file:
        file.write(header + yaml.safe_dump(experiment, sort_keys=False))
    _write_json(args.out / "plan.json", plan)
    return plan


def train_all(
    cells: Sequence[Cell], config: Path, args: argparse.Namespace, plan: Mapping[str, Any], deadline: float
) -> list[str]:
    """Train the cells that are not done until the deadline; returns those that failed."""
    failed = []
    for cell in cells:
        folder = args.out / "cells" / cell.id
        if cell_state(folder).kind == "done":
            continue
        if time.monotonic() + plan["start_s"] > deadline:
            break
        more = ["--config", str(config), "--cell", cell.id, "--data", str(args.data)]
        status = train(more, folder, deadline)
        if status is None:
            break
        if status:
            failed.append(cell.id)  # the others are still to be trained
    return failed


def train(arguments: Sequence[str], folder: Path, deadline: float) -> int | None:
    """`famba train` with these arguments until the deadline, when it saves a checkpoint at its next step and stops.

    Returns its exit status; None if it was stopped.
    """
    out = ["--out", str(folder / "row.json"), "--log", str(folder / "train.log")]
    process = subprocess.Popen([sys.executable, "-m", "famba", "train", *arguments, *out], env=_env())
    try:
        return process.wait(timeout=deadline - time.monotonic())
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _where(state: CellState) -> str:
    if state.epoch is None:
        return f"{state.cell} (not begun)"
    return f"{state.cell} (in epoch {state.epoch} of {state.epochs})"


def _fixed(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that the epochs were decided on."""
    return {"device": args.device, "quick": args.quick, "minutes": args.minutes}


def _env() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths}


def _write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(value, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a toy on scikit-learn's digits, to rehearse the code")
    parser.add_argument("--data", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder, kept between calls")
    parser.add_argument("--minutes", type=float, default=25, help="of all calls together [25]")
    parser.add_argument("--limit", type=float, help="minutes of this call [those of --minutes]")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="write what is to be brought back there")
    parser.add_argument("--weights", action="store_true", help="pack the weights of finished cells, too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # how the process that times is called
    args = parser.parse_args()
    args.limit = args.limit or args.minutes
    return args


if __name__ == "__main__":
    sys.exit(main())
