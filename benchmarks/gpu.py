"""Everything that Famba-V's suite claims about a GPU, measured in one run of under 8 minutes; JSON out.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --quick --out rehearsal.json     # the same code on toy sizes

Sections run in order, each within its own seconds; one that fails or runs out of time is recorded as such and the rest
goes on. The file is written after each. Warm-up and graph capture are outside of all timings; no data set is needed:
the images are noise of CIFAR-100's shape, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from released import Released
from torch import Tensor

from famba import recipe, scan
from famba.bench import bench, cell_of
from famba.calibrate import Probes, running
from famba.config import ARCHITECTURES, Architecture, Cell
from famba.cost import scheduled_tokens
from famba.device import environment
from famba.loader import TrainLoader
from famba.measure import saved_activation_bytes
from famba.model import VisionMamba
from famba.roofline import interleaved_s
from famba.schedule import STRATEGIES, strategy
from famba.step import Step

CLASSES, EPOCHS, EPOCH_STEPS, GLOBAL_BATCH, TEST_IMAGES = 100, 300, 97, 512, 10_000
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
TARGETS = {
    "vim_tiny_images_per_s": 8000,
    "vim_small_images_per_s": 3500,
    "times_released": 4,
    "share_of_bound": 0.5,
    "data_adds": 0.05,
    "ratio_points": 0.05,
    "vim_tiny_300_epochs_minutes": 35,
}


class Suite:
    """Sizes, device and findings of one run."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.quick = device, quick
        tiny, small = ARCHITECTURES["vim_tiny"], ARCHITECTURES["vim_small"]
        if quick:
            toy = Architecture(embed_dim=32, depth=2, img_size=32, patch_size=4)
            tiny, small = toy, toy.model_copy(update={"embed_dim": 48})
        self.models = {"vim_tiny": tiny, "vim_small": small}
        self.batch, self.rounds = (8, 2) if quick else (128, 10)
        self.backends = [name for name, runs, _ in scan.available(device) if runs and name != "reference"]
        self.choice = scan.choose(device)
        self.found: dict[str, Any] = {}

    def cell(self, model: str, strategy_name: str, precision: str = "bf16", **settings: Any) -> Cell:
        """The fast recipe at one batch per step."""
        a = self.models[model]
        schedule = strategy(strategy_name, a.depth, a.tokens if self.quick else None)
        captured = self.device.type == "cuda"
        return cell_of(a, schedule, self.batch, precision=precision, **{"cuda_graphs": captured, **settings})

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def correctness(suite: Suite) -> dict[str, Any]:
    """Output and every gradient of each backend against the reference in float64: relative errors."""
    found: dict[str, Any] = {}
    for name in suite.backends:
        for precision in TOLERANCE:
            try:
                found[f"{name} {precision}"] = _errors(suite, name, precision)
            except Exception as error:  # the other backends are still to be compared
                found[f"{name} {precision}"] = {"failed": f"{type(error).__name__}: {error}", "within": False}
    return found


def _errors(suite: Suite, backend: str, precision: str) -> dict[str, Any]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    batch, length, dim, state = (2, 37, 24, 16) if suite.quick else (4, 197, 384, 16)

    def draw(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(suite.device, kind)

    x, z = draw(batch, length, dim), draw(batch, length, dim)
    weight, bias = draw(2, dim, 4, scale=0.5, kind=torch.float32), draw(2, dim, kind=torch.float32)
    delta = draw(2, batch, length, dim)
    B, C = draw(2, batch, length, state), draw(2, batch, length, state)
    A = -torch.arange(1.0, state + 1, device=suite.device).expand(2, dim, state).contiguous()
    D, delta_bias = draw(2, dim, kind=torch.float32), draw(2, dim, kind=torch.float32) - 4
    inputs = {"x": x, "weight": weight, "bias": bias, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    inputs["delta_bias"] = delta_bias

    def run(name: str, kind: torch.dtype | None) -> dict[str, Tensor]:
        leaves = {
            key: (t if kind is None else t.to(kind)).detach().clone().requires_grad_() for key, t in inputs.items()
        }
        t = leaves
        u = scan.causal_conv(t["x"], t["weight"], t["bias"], name)
        y = scan.directional_scan(u, t["delta"], t["A"], t["B"], t["C"], t["D"], t["z"], t["delta_bias"], name)
        grads = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))
        return {"out": y, **{f"d{key}": grad for key, grad in zip(leaves, grads, strict=True)}}

    exact, found = run("reference", torch.float64), run(backend, None)
    errors = {key: ((found[key].double() - exact[key]).norm() / exact[key].norm()).item() for key in exact}
    worst = max(errors.values())
    return {"worst": worst, "within": worst <= TOLERANCE[precision], "relative_errors": errors}


def whole_model(suite: Suite) -> dict[str, Any]:
    """Logits and gradients of a model, each backend against the reference; the released-style path's logits."""
    a = suite.models["vim_tiny"].model_copy(update={"depth": 2 if suite.quick else 4})
    images = torch.randn(2, 3, a.img_size, a.img_size, generator=torch.Generator().manual_seed(0)).to(suite.device)
    schedule = (0, 7, *(0,) * (a.depth - 2))

    def run(backend: str) -> tuple[VisionMamba, Tensor]:
        torch.manual_seed(0)
        model = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=schedule, scan=backend).to(suite.device)
        logits = model(images)
        logits.square().sum().backward()
        return model, logits.detach()

    expected, logits = run("reference")
    found: dict[str, Any] = {}
    for name in suite.backends:
        model, got = run(name)
        pairs = zip(model.parameters(), expected.parameters(), strict=True)
        worst = max(_relative(p.grad, q.grad) for p, q in pairs if p.grad is not None and q.grad is not None)
        found[name] = {"logits": _relative(got, logits), "worst_gradient": worst}
    unfused = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=(0,) * a.depth, scan="reference").to(
        suite.device
    )
    with torch.no_grad():
        found["released"] = {"logits": _relative(Released(unfused)(images), unfused(images))}
    return found


def _relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def parts(suite: Suite) -> dict[str, Any]:
    """`famba bench` for every backend: measured against the bound, part by part."""
    found: dict[str, Any] = {}
    for model in suite.models:
        for name in suite.backends:
            if model == "vim_small" and name != suite.choice.name:
                continue
            rates, measured = bench(suite.cell(model, "baseline"), suite.device, name, suite.rounds, small=suite.quick)
            found[f"{model} {name}"] = {"rates": asdict(rates), "parts": [asdict(part) for part in measured]}
    return found


def throughput(suite: Suite) -> dict[str, Any]:
    """Images per second of training with fresh data, and the seconds that the data adds to the steps."""
    found: dict[str, Any] = {}
    steps = 3 if suite.quick else 60
    for model in suite.models:
        cell = suite.cell(model, "baseline")
        counted, alone, forward = running(cell, suite.device, suite.choice.name, CLASSES)
        step = alone.func
        loader = TrainLoader(_Noise(steps * suite.batch), cell.recipe, cell.architecture.img_size, 0, suite.device)

        epochs = iter(range(1 << 30))

        def epoch(loader: TrainLoader = loader, step: Step = step, epochs: Iterator[int] = epochs) -> None:
            for batches in loader.epoch(next(epochs)):
                step(batches)

        def same_steps(loader: TrainLoader = loader, alone: Callable[[], Any] = alone) -> None:
            for _ in range(loader.steps):
                alone()

        runs = {"with data": epoch, "alone": same_steps, "evaluation": forward}
        seconds = interleaved_s(runs, suite.device, 2 if suite.quick else 5)
        with_data, without = (seconds[key] / loader.steps for key in ("with data", "alone"))
        found[model] = {
            "images_per_s": suite.batch / with_data,
            "step_ms": with_data * 1e3,
            "step_without_data_ms": without * 1e3,
            "data_adds": with_data / without - 1,
            "evaluation_ms_per_image": seconds["evaluation"] / suite.batch * 1e3,
            "predicted_saved_bytes_per_image": counted.saved_per_image,
        }
    return found


def extrapolation(suite: Suite) -> dict[str, Any]:
    """Hours of 300 epochs of CIFAR-100 with evaluation of raw and averaged weights, from the measured throughput."""
    found = {}
    for model, measured in suite.found["throughput"].items():
        train = EPOCHS * EPOCH_STEPS * GLOBAL_BATCH / measured["images_per_s"]
        evaluation = EPOCHS * 2 * TEST_IMAGES * measured["evaluation_ms_per_image"] / 1e3
        found[model] = {"minutes": (train + evaluation) / 60, "train_s": train, "evaluation_s": evaluation}
    return found


def strategies(suite: Suite) -> dict[str, Any]:
    """Time and memory of each strategy over the baseline's, beside the share of tokens that its layers see."""
    found: dict[str, Any] = {}
    for model, a in suite.models.items():
        runs: dict[str, Callable[[], Any]] = {}
        memory, saved = {}, {}
        for name in STRATEGIES:
            cell = suite.cell(model, name)
            memory[name] = _peak_of_a_step(suite, cell)
            _, runs[name], _ = running(cell, suite.device, suite.choice.name, CLASSES)
            net = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=cell.schedule, scan=suite.choice.name)
            saved[name] = saved_activation_bytes(net.to(suite.device), suite.device, _autocast(suite))
        seconds = interleaved_s(runs, suite.device, suite.rounds)
        found[model] = {
            name: {
                "tokens": sum(scheduled_tokens(a, suite.cell(model, name).schedule)[:-1]) / (a.depth * a.tokens),
                "time": seconds[name] / seconds["baseline"],
                "step_ms": seconds[name] * 1e3,
                "saved_activations": saved[name] / saved["baseline"],
                "peak_memory": memory[name] and memory[name] / memory["baseline"],
            }
            for name in STRATEGIES
        }
        for findings in found[model].values():
            findings["within"] = all(
                abs(findings[key] - findings["tokens"]) <= TARGETS["ratio_points"]
                for key in ("time", "saved_activations")
            )
    return found


def _autocast(suite: Suite) -> Callable[[], Any]:
    return lambda: torch.autocast(suite.device.type, torch.bfloat16)


def _peak_of_a_step(suite: Suite, cell: Cell) -> int | None:
    """Largest allocation during an eager step, over what was there before the model; None on a CPU."""
    if suite.device.type != "cuda":
        return None
    eager = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"cuda_graphs": False})})
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    _, step, _ = running(eager, suite.device, suite.choice.name, CLASSES)
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def released(suite: Suite) -> dict[str, Any]:
    """Our captured bf16 step, our fp32 one, and the released-style one, in the same rounds; data left out of all."""
    found: dict[str, Any] = {}
    for model, a in suite.models.items():
        for name in ("baseline", "all"):
            cell = suite.cell(model, name)
            runs = {
                "ours": running(cell, suite.device, suite.choice.name, CLASSES)[1],
                "ours fp32": running(suite.cell(model, name, "fp32"), suite.device, suite.choice.name, CLASSES)[1],
                "released": _released_step(suite, a, cell),
            }
            seconds = interleaved_s(runs, suite.device, suite.rounds, warm_up=2)
            found[f"{model} {name}"] = {
                **{f"{key} ms": value * 1e3 for key, value in seconds.items()},
                "times_released": seconds["released"] / seconds["ours"],
                "times_released_fp32": seconds["released"] / seconds["ours fp32"],
            }
    return found


def _released_step(suite: Suite, a: Architecture, cell: Cell) -> Callable[[], Any]:
    """An eager fp32 step: AdamW as timm makes it, weight averaging parameter by parameter."""
    model = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=cell.schedule, scan="chunked").to(suite.device)
    net = Released(model)
    optimizer = torch.optim.AdamW(recipe.parameter_groups(model, cell.recipe.weight_decay), lr=1e-4)
    average = [p.detach().clone() for p in model.parameters()]
    images = torch.randn(suite.batch, 3, a.img_size, a.img_size, device=suite.device)
    targets = torch.full((suite.batch, CLASSES), 1 / CLASSES, device=suite.device)

    def step() -> None:
        loss = recipe.loss(net(images), targets)
        loss.item()  # the released loop checks every loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, p in zip(average, model.parameters(), strict=True):
                mean.copy_(mean * cell.recipe.ema_decay + (1 - cell.recipe.ema_decay) * p)

    return step


def prediction(suite: Suite) -> dict[str, Any]:
    """`famba plan`'s calibrated prediction over the measured step, for cells that its probes have not seen."""
    found = {}
    for model in suite.models:
        probes = Probes(suite.cell(model, "baseline"), suite.device, suite.choice.name, CLASSES)
        made = {
            name: running(suite.cell(model, name), suite.device, suite.choice.name, CLASSES)
            for name in ("baseline", "upper")
        }
        seconds = interleaved_s(
            {**probes.runs, **{n: run for n, (_, run, _) in made.items()}}, suite.device, suite.rounds
        )
        calibration = probes.calibration(seconds)
        found[model] = {name: calibration.step_s(counted) / seconds[name] for name, (counted, _, _) in made.items()}
    return found


def verdicts(suite: Suite) -> dict[str, Any]:
    """Each target beside what was measured."""
    found = suite.found
    rates = found["throughput"]
    shares = {key: made["parts"][-1]["share"] for key, made in found["parts"].items()}
    fused = {f"{model} {name}": made for model, names in found["strategies"].items() for name, made in names.items()}
    released_ti = found["released"]["vim_tiny baseline"]["times_released"]
    return {
        "correct": _met(all(made["within"] for made in found["correctness"].values()), True),
        "vim_tiny_images_per_s": _met(rates["vim_tiny"]["images_per_s"], TARGETS["vim_tiny_images_per_s"]),
        "vim_small_images_per_s": _met(rates["vim_small"]["images_per_s"], TARGETS["vim_small_images_per_s"]),
        "times_released": _met(released_ti, TARGETS["times_released"]),
        "share_of_bound": _met(shares[f"vim_tiny {suite.choice.name}"], TARGETS["share_of_bound"]),
        "data_adds": _met(-max(made["data_adds"] for made in rates.values()), -TARGETS["data_adds"]),
        "ratios_outside": {"measured": [name for name, made in fused.items() if not made["within"]], "target": []},
        "vim_tiny_300_epochs_minutes": _met(
            -found["extrapolation"]["vim_tiny"]["minutes"], -TARGETS["vim_tiny_300_epochs_minutes"]
        ),
    }


def _met(measured: float, at_least: float) -> dict[str, Any]:
    """A quantity that is to be small comes with its sign turned."""
    return {"measured": abs(measured), "target": abs(at_least), "met": measured >= at_least}


class _Noise:
    """Images of CIFAR-100's shape."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        self.train_images = rng.integers(256, size=(images, 32, 32, 3), dtype=np.uint8)
        self.train_labels = rng.integers(CLASSES, size=images)
        self.test_images, self.test_labels = self.train_images[:1], self.train_labels[:1]
        self.classes = tuple(map(str, range(CLASSES)))


# what runs, in this order, and the seconds that it may take
SECTIONS: list[tuple[Callable[[Suite], dict[str, Any]], int]] = [
    (correctness, 60),
    (whole_model, 60),
    (throughput, 70),
    (extrapolation, 5),
    (released, 70),
    (strategies, 100),
    (parts, 60),
    (prediction, 45),
    (verdicts, 5),
]


def guarded(section: Callable[[Suite], dict[str, Any]], suite: Suite, seconds: int) -> dict[str, Any]:
    """The section's findings, or what went wrong."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        return section(suite)
    except Exception as error:  # whatever it is, the other sections still have something to tell
        return {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc().splitlines()[-6:]}
    finally:
        signal.alarm(0)
        if suite.device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to rehearse the code")
    parser.add_argument("--only", nargs="+", choices=[f.__name__ for f, _ in SECTIONS], help="these sections alone")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    suite = Suite(torch.device(args.device), args.quick)
    began = time.perf_counter()
    head = {
        "environment": environment(suite.device, 1).model_dump(),
        "backends": {name: why for name, _, why in scan.available(suite.device)},
        "scan": asdict(suite.choice),
        "quick": args.quick,
        "batch": suite.batch,
        "targets": TARGETS,
    }
    for section, seconds in SECTIONS:
        name = section.__name__
        if args.only and name not in args.only:
            continue
        started = time.perf_counter()
        suite.found[name] = guarded(section, suite, seconds)
        took = time.perf_counter() - started
        print(f"{name}: {suite.found[name].get('failed', 'done')} ({took:.0f} s)", flush=True)
        whole = {**head, "seconds": time.perf_counter() - began, **suite.found}
        args.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
