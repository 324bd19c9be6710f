"""Everything that Famba-V's suite claims about a GPU, measured in one run of under 8 minutes; JSON out.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --quick --out rehearsal.json     # the same code on toy sizes

Each section of gpu_sections.py runs in a process of its own, for at most its seconds: one that fails, hangs or leaves
the device in disorder costs the others nothing, and what it had found by then is kept. The file is written after each.
Warm-up, compilation and graph capture are outside of all timings; no data set is needed: the images are noise of
CIFAR-100's shape, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_sections import RATIO_POINTS, SECTIONS, TOLERANCE, Found, Suite

from famba import ops
from famba.system.device import ROOT, environment

EPOCHS, EPOCH_STEPS, GLOBAL_BATCH, TEST_IMAGES = 300, 97, 512, 10_000  # of CIFAR-100 under the paper's recipe
TARGETS = {
    "vim_tiny_images_per_s": 8000,
    "vim_small_images_per_s": 3500,
    "times_released": 4,
    "share_of_bound": 0.5,
    "data_adds": 0.05,
    "ratio_points": RATIO_POINTS,
    "vim_tiny_300_epochs_minutes": 35,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to rehearse the code")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections alone")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--section", choices=list(SECTIONS), help=argparse.SUPPRESS
    )  # how a section's process is called
    args = parser.parse_args()
    suite = Suite(args.device, args.quick)
    if args.section:
        SECTIONS[args.section][0](suite, Found(args.out))
        return
    began = time.perf_counter()
    whole: dict[str, Any] = {
        "environment": environment(suite.device, 1).model_dump(),
        "backends": {name: why for name, _, why in ops.available(suite.device)},
        "scan": asdict(suite.choice),
        "quick": args.quick,
        "batch": suite.batch,
        "tolerance": TOLERANCE,
        "targets": TARGETS,
    }
    args.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")  # found out now if it cannot be
    for name, (_, seconds) in SECTIONS.items():
        if args.only and name not in args.only:
            continue
        started = time.perf_counter()
        whole[name] = run_section(name, seconds, args)
        end = whole[name].get("failed") or whole[name].get("cut") or "done"
        print(f"{name}: {end} ({time.perf_counter() - started:.0f} s)", flush=True)
        whole["extrapolation"] = extrapolation(whole)
        whole["verdicts"] = verdicts(whole)
        whole["seconds"] = time.perf_counter() - began
        args.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for name, verdict in whole["verdicts"].items():
        print(f"{name:<28} {json.dumps(verdict)}")


def run_section(name: str, seconds: int, args: argparse.Namespace) -> dict[str, Any]:
    """What the section has found, and what stopped it if it did not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        part, log = Path(folder, "part.json"), Path(folder, "log")
        command = [sys.executable, __file__, "--device", args.device, "--section", name, "--out", str(part)]
        end = {}
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("w") as output:
            try:
                done = subprocess.run(
                    [*command, *(["--quick"] if args.quick else [])],
                    env={**os.environ, "PYTHONPATH": paths},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                )
                status = done.returncode
            except subprocess.TimeoutExpired:
                end, status = {"cut": f"after {seconds} s"}, 0
        if status:
            lines = log.read_text(errors="replace").strip().splitlines() or [f"exit status {status}"]
            end = {"failed": lines[-1], "log": lines[-12:]}
        found = json.loads(part.read_text(encoding="utf-8")) if part.exists() else {}
    return {**found, **end}


def extrapolation(whole: dict[str, Any]) -> dict[str, Any]:
    """Minutes of 300 epochs of CIFAR-100 with evaluation of raw and averaged weights, from the measured throughput."""
    made = {}
    for model, measured in whole.get("throughput", {}).items():
        if not isinstance(measured, dict) or "images_per_s" not in measured:
            continue
        train = EPOCHS * EPOCH_STEPS * GLOBAL_BATCH / measured["images_per_s"]
        evaluation = EPOCHS * 2 * TEST_IMAGES * measured["evaluation_ms_per_image"] / 1e3
        made[model] = {"minutes": (train + evaluation) / 60, "train_s": train, "evaluation_s": evaluation}
    return made


def verdicts(whole: dict[str, Any]) -> dict[str, Any]:
    """Each target beside what was measured; null where its section did not come so far."""
    share = f"vim_tiny {whole['scan']['name']}"
    fused = whole.get("strategies", {})
    quantities: dict[str, Callable[[], float]] = {
        "vim_tiny_images_per_s": lambda: whole["throughput"]["vim_tiny"]["images_per_s"],
        "vim_small_images_per_s": lambda: whole["throughput"]["vim_small"]["images_per_s"],
        "times_released": lambda: whole["released"]["vim_tiny baseline"]["times_released"],
        "share_of_bound": lambda: whole["parts"][share]["parts"][-1]["share"],
        "data_adds": lambda: max(whole["throughput"][model]["data_adds"] for model in ("vim_tiny", "vim_small")),
        "ratio_points": lambda: max(
            abs(fused[model][name][key] - fused[model][name]["tokens"])
            for model in ("vim_tiny", "vim_small")
            for name in fused[model]
            for key in ("time", "saved_activations")
        ),
        "vim_tiny_300_epochs_minutes": lambda: whole["extrapolation"]["vim_tiny"]["minutes"],
    }
    made = {"correct": _correct(whole.get("correctness", {}))}
    for name, quantity in quantities.items():
        small = name in ("data_adds", "ratio_points", "vim_tiny_300_epochs_minutes")  # the less, the better
        try:
            measured = quantity()
        except (KeyError, IndexError, ValueError):
            made[name] = {"measured": None, "target": TARGETS[name], "met": None}
            continue
        met = measured <= TARGETS[name] if small else measured >= TARGETS[name]
        made[name] = {"measured": measured, "target": TARGETS[name], "met": met}
    return made


def _correct(found: dict[str, Any]) -> dict[str, Any]:
    compared = {name: made["within"] for name, made in found.items() if isinstance(made, dict)}
    whole = bool(compared) and not {"failed", "cut"} & found.keys()
    return {"compared": compared, "met": all(compared.values()) if whole else None}


if __name__ == "__main__":
    main()
