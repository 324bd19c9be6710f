"""`famba bench`: what each part of a training step achieves of what the device can do at most."""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from famba import ops
from famba.commands.options import positive
from famba.config import ARCHITECTURES, Architecture
from famba.cost import memory
from famba.cost.bench import CPU_BATCH, CUDA_BATCH, StepPart, bench, cell_of
from famba.cost.growth import PATCHES, growth
from famba.cost.roofline import Rates
from famba.files import write_text
from famba.ops.dispatch import Selection
from famba.ops.precision import DTYPES
from famba.results import tables
from famba.results.tables import Column
from famba.strategies import STRATEGIES
from famba.system.device import environment, pick_device
from famba.text import count


def table(rates: Rates, parts: Sequence[StepPart], what: str) -> str:
    """For people: what the device can do, and a line for each part."""
    columns = (
        Column("part"), Column("measured (ms)", "r"), Column("bound (ms)", "r"), Column("achieved", "r"),
        Column("bound mostly by"),
    )  # fmt: skip
    body = [
        (part.name, f"{part.measured_s * 1e3:,.2f}", f"{part.bound_s * 1e3:,.2f}", f"{part.share:.0%}", part.mostly)
        for part in parts
    ]
    return "\n".join(
        [
            what,
            f"{rates.device}: {rates.gemm_flops / 1e9:,.0f} GFLOP/s in matrix products, {rates.exps / 1e9:,.1f} G "
            f"exp/s, {rates.moved / 1e9:,.1f} GB/s copied ({rates.source})",
            "",
            tables.table(columns, body).plain,
            "",
            "bound: matrix products, exponentials and bytes at those rates, one after the other",
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba bench`."""
    parser.description = (
        "Measure the parts of a layer and a whole training step, and what the device can do at most in the "
        "same minutes. Example: famba bench --model vim_tiny --precision bf16 --json bench.json"
    )
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="vim_tiny")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--batch", type=positive, metavar="N", help=f"images [{CPU_BATCH} on a CPU, {CUDA_BATCH} on a GPU]"
    )
    parser.add_argument("--depth", type=positive, default=24, metavar="N", help="layers of the whole step [24]")
    parser.add_argument("--img-size", type=positive, default=224, metavar="PIXELS", help="[224]")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--scan", default="auto", metavar="BACKEND", help="[auto]")
    parser.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="repetitions, of which the median counts [5]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument(
        "--growth", type=Path, metavar="FILE.svg",
        help="instead, measure time and memory against the number of tokens, at --batch [1], and draw them",
    )  # fmt: skip
    parser.add_argument(
        "--patches", type=_squares, default=PATCHES, metavar="N,N,N",
        help=f"patches per image for --growth, square numbers [{','.join(map(str, PATCHES))}]",
    )  # fmt: skip
    parser.add_argument("--patch-size", type=positive, default=16, metavar="PIXELS", help="[16]")
    parser.add_argument(
        "--strategy", choices=STRATEGIES[1:], default="upper", help="what --growth compares with no fusion [upper]"
    )


def _squares(text: str) -> tuple[int, ...]:
    numbers = sorted({positive(number) for number in text.split(",")})
    if len(numbers) < 3 or any(math.isqrt(number) ** 2 != number for number in numbers):
        raise ValueError
    return tuple(numbers)


_squares.__name__ = "list of three or more square numbers"  # what argparse calls it in its message


def main(args: argparse.Namespace) -> None:
    device = pick_device(args.device)
    choice = ops.choose(device, DTYPES[args.precision], args.scan)
    sizes = {"depth": args.depth, "img_size": args.img_size, "patch_size": args.patch_size}
    shape: Architecture = ARCHITECTURES[args.model].model_copy(update=sizes)
    if args.growth:
        _growth(args, shape, device, choice)
        return
    batch = args.batch or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH)
    cell = cell_of(shape, (0,) * args.depth, batch, precision=args.precision, cuda_graphs=device.type == "cuda")
    with memory.reported(args.model, lambda _: memory.step_remedy(cell, device, "--batch")):
        rates, parts = bench(cell, device, choice.name, args.rounds)
    what = f"{args.model}, batch {batch}, {args.precision}, {args.depth} layers, scan {choice.name}: {choice.reason}"
    print(table(rates, parts, what))
    if args.json:
        found = {
            "cell": cell.model_dump(),
            "scan": asdict(choice),
            "rates": asdict(rates),
            "parts": [asdict(part) for part in parts],
            "environment": environment(device, 1).model_dump(),
        }
        write_text(args.json, json.dumps(found, indent=1))


def _growth(args: argparse.Namespace, shape: Architecture, device: torch.device, choice: Selection) -> None:
    from famba.figures import growth as figure  # noqa: PLC0415 (matplotlib)

    batch = args.batch or 1
    largest = shape.model_copy(update={"img_size": math.isqrt(args.patches[-1]) * shape.patch_size})

    def advice(_: BaseException) -> str:
        of_largest = memory.step_remedy(cell_of(largest, "baseline", batch), device, "--batch")
        return f"at {args.patches[-1]:,} patches, {of_largest}; or take fewer: --patches"

    with memory.reported(args.model, advice):
        series = growth(shape, args.strategy, args.patches, device, choice.name, batch, args.rounds, args.precision)
    here = environment(device, 1)
    # what the C library's allocator was told: a large block that it gives back costs a page fault for every 4 KiB
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    clock = "GPU time" if device.type == "cuda" else "CPU seconds"
    what = (
        f"{args.model} of {count(shape.depth, 'layer')}, batch {batch}, {args.precision}, patches of "
        f"{shape.patch_size} pixels, scan {choice.name}; {here.device}, {count(here.threads, 'thread')}, "
        f"torch {here.packages['torch']}; {clock}, medians of {args.rounds}."
    )
    what += "".join(f" {key}={value}." for key, value in allocator.items())
    columns = [Column("tokens", "r"), *(Column(one.name, "r") for one in series)]
    body = [(f"{tokens:,}", *(f"{one.values[i]:.4g}" for one in series)) for i, tokens in enumerate(series[0].tokens)]
    print("\n".join([what, "", tables.table(columns, body).plain, "", *map(figure.fit_words, series)]))
    figure.draw(series, args.growth, what)
    if args.json:
        found = {
            "architecture": shape.model_dump(exclude={"img_size"}),
            "batch": batch,
            "precision": args.precision,
            "clock": clock,
            "rounds": args.rounds,
            "scan": asdict(choice),
            "allocator": allocator,
            "series": [asdict(one) for one in series],
            "environment": here.model_dump(),
        }
        write_text(args.json, json.dumps(found, indent=1))
