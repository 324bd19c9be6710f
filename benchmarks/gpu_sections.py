"""The sections of gpu.py: what each measures. Any of them can be cut off at any time: each finding is kept at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import released as released_code
import torch
from torch import Tensor

from famba import ops
from famba.config import ARCHITECTURES, Architecture, Cell
from famba.cost.bench import bench, cell_of
from famba.cost.calibrate import Probes
from famba.cost.roofline import interleaved_s
from famba.data.loader import TrainLoader
from famba.flops import scheduled_tokens
from famba.model import VisionMamba
from famba.ops import dispatch, reference, types
from famba.strategies import STRATEGIES
from famba.training import optim
from famba.training.activations import saved_activation_bytes
from famba.training.step import Step
from famba.training.timing import running

CLASSES = 100
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
RATIO_POINTS = 0.05


class Found(dict[str, Any]):
    """A section's findings, on disk as soon as they are made."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._path.write_text(json.dumps(self), encoding="utf-8")


def clock_mhz() -> int | None:
    """What the multiprocessors run at now, just after work; None where nothing tells."""
    with suppress(ImportError, OSError, RuntimeError, AssertionError):
        return torch.cuda.clock_rate()
    return None


class Suite:
    """Sizes and device of a run."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        tiny, small = ARCHITECTURES["vim_tiny"], ARCHITECTURES["vim_small"]
        if quick:
            toy = Architecture(embed_dim=32, depth=2, img_size=32, patch_size=4)
            tiny, small = toy, toy.model_copy(update={"embed_dim": 48})
        self.models = {"vim_tiny": tiny, "vim_small": small}
        self.batch, self.rounds = (8, 2) if quick else (128, 10)
        self.backends = [name for name, runs, _ in ops.available(self.device) if runs and name != "reference"]
        self.fast = [name for name in self.backends if name != "chunked"] or self.backends
        # whose numbers are the suite's own; every other fast one is measured beside it
        self.choice = ops.choose(self.device, requested="triton" if "triton" in self.backends else "auto")

    def cell(self, model: str, strategy: str, precision: str = "bf16", **settings: Any) -> Cell:
        """The fast recipe at one batch per step."""
        captured = self.device.type == "cuda"
        settings = {"precision": precision, "cuda_graphs": captured, **settings}
        return cell_of(self.models[model], strategy, self.batch, **settings)

    def model(self, model: str, strategy: str) -> VisionMamba:
        schedule = self.cell(model, strategy).schedule
        made = VisionMamba(
            **self.models[model].model_dump(), num_classes=CLASSES, fusion=schedule, scan=self.choice.name
        )
        return made.to(self.device)


def correctness(suite: Suite, found: Found) -> None:
    """Each scan backend's output and gradients against the reference in float64; then a block's other kernels."""
    for name in suite.backends:
        for precision in TOLERANCE:
            try:
                found[f"{name} {precision}"] = _errors(suite, name, precision)
            except Exception as error:  # the other backends are still to be compared
                found[f"{name} {precision}"] = {"error": f"{type(error).__name__}: {error}", "within": False}
    if (kernels := dispatch.token_backend(suite.device)) is not reference:
        try:
            found["norm, matching, merging"] = _row_errors(suite, kernels)
        except Exception as error:
            found["norm, matching, merging"] = {"error": f"{type(error).__name__}: {error}", "within": False}


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
        u = ops.causal_conv(t["x"], t["weight"], t["bias"], name)
        y = ops.directional_scan(u, t["delta"], t["A"], t["B"], t["C"], t["D"], t["z"], t["delta_bias"], name)
        grads = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))
        return {"out": y, **{f"d{key}": grad for key, grad in zip(leaves, grads, strict=True)}}

    exact, found = run("reference", torch.float64), run(backend, None)
    errors = {key: ((found[key].double() - exact[key]).norm() / exact[key].norm()).item() for key in exact}
    worst = max(errors.values())
    return {"worst": worst, "within": worst <= TOLERANCE[precision], "relative_errors": errors}


def _row_errors(suite: Suite, kernels: types.Backend) -> dict[str, Any]:
    """The kernels of a block against torch in float64: pairs and groups exactly, norm and merging by relative error."""
    generator = torch.Generator().manual_seed(0)
    batch, tokens, dim, r = 8, 197, 192, 14
    x, grad = (torch.randn(batch, tokens, dim, generator=generator).to(suite.device) for _ in range(2))
    added, weight = x.roll(1, 0).bfloat16(), torch.linspace(0.5, 1.5, dim, device=suite.device)
    cls = torch.arange(batch, device=suite.device) * 20

    pairs, expected = kernels.match(x, r, cls), reference.match(x.double(), r, cls)
    source, target, kept, _ = expected
    grouped, rows_of = (
        kernels.groups(kept, source, target, cls, tokens),
        reference.groups(kept, source, target, cls, tokens),
    )
    same = all(torch.equal(got, want) for got, want in zip((*pairs, *grouped), (*expected, *rows_of), strict=True))
    group, size, _ = rows_of

    leaves = [t.double().requires_grad_() for t in (x, added, weight)]
    exact = torch.nn.functional.rms_norm(leaves[0] + leaves[1], (dim,), leaves[2], 1e-5)
    dx, _, dweight = torch.autograd.grad(exact, leaves, grad.double())
    normed, rstd, total = kernels.norm(x, added, weight, 1e-5, torch.float32)
    found = kernels.norm_backward(grad, None, total, weight, rstd, torch.float32)
    errors = {
        "norm": _relative(normed, exact),
        "dnorm": _relative(found[0], dx),
        "dweight": _relative(found[2], dweight),
        "merged": _relative(
            kernels.merge(x, kept, source, group, size), reference.merge(x.double(), kept, source, group, size)
        ),
        "dmerged": _relative(
            kernels.merge_backward(grad[:, r:], group, size, x.shape[1]),
            reference.merge_backward(grad[:, r:].double(), group, size, x.shape[1]),
        ),
    }
    worst = max(errors.values())
    within = same and worst <= TOLERANCE["fp32"]
    return {"worst": worst, "within": within, "same_pairs": same, "relative_errors": errors}


def whole_model(suite: Suite, found: Found) -> None:
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
    for name in suite.backends:
        model, got = run(name)
        pairs = zip(model.parameters(), expected.parameters(), strict=True)
        worst = max(_relative(p.grad, q.grad) for p, q in pairs if p.grad is not None and q.grad is not None)
        found[name] = {"logits": _relative(got, logits), "worst_gradient": worst}
    unfused = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=(0,) * a.depth, scan="reference").to(
        suite.device
    )
    with torch.no_grad():
        logits = released_code.Released(unfused)(images)
        found["released"] = {
            "logits": _relative(logits, unfused(images)),
            "kernels": released_code.kernels(suite.device),
        }


def _relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def throughput(suite: Suite, found: Found) -> None:
    """Images per second of training with fresh data, and the seconds that the data adds to the steps.

    Under a model's name with the backend that is chosen here, and for Vim-Ti also with every other fast one.
    """
    others = [name for name in suite.fast if name != suite.choice.name]
    for model, backend in [
        ("vim_tiny", suite.choice.name),
        ("vim_small", suite.choice.name),
        *(("vim_tiny", name) for name in others),
    ]:
        key = model if backend == suite.choice.name else f"{model} {backend}"
        found[key] = _throughput(suite, model, backend)


def _throughput(suite: Suite, model: str, backend: str) -> dict[str, Any]:
    cell, steps = suite.cell(model, "baseline"), 3 if suite.quick else 20
    counted, alone, forward = running(cell, suite.device, backend, CLASSES)
    step: Step = alone.func
    loader = TrainLoader(_Noise(steps * suite.batch), cell.recipe, cell.architecture.img_size, 0, suite.device)
    epochs = iter(range(1 << 30))

    def epoch() -> None:
        for batches in loader.epoch(next(epochs)):
            step(batches)

    def same_steps() -> None:
        for _ in range(loader.steps):
            alone()

    runs = {"with data": epoch, "alone": same_steps, "evaluation": forward}
    seconds = interleaved_s(runs, suite.device, 2 if suite.quick else 4)
    with_data, without = (seconds[key] / loader.steps for key in ("with data", "alone"))
    return {
        "backend": backend,
        "images_per_s": suite.batch / with_data,
        "step_ms": with_data * 1e3,
        "step_without_data_ms": without * 1e3,
        "data_adds": with_data / without - 1,
        "evaluation_ms_per_image": seconds["evaluation"] / suite.batch * 1e3,
        "predicted_saved_bytes_per_image": counted.saved_per_image,
        "clock_mhz": clock_mhz(),
    }


def strategies(suite: Suite, found: Found) -> None:
    """Time and memory of each strategy over the baseline's, beside the share of tokens that its layers see."""
    for model, a in suite.models.items():
        runs: dict[str, Callable[[], Any]] = {}
        memory, saved = {}, {}
        for name in STRATEGIES:
            cell = suite.cell(model, name)
            memory[name] = _peak_of_a_step(suite, cell)
            _, runs[name], _ = running(cell, suite.device, suite.choice.name, CLASSES)
            saved[name] = saved_activation_bytes(suite.model(model, name), suite.device, _autocast(suite))
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


def released(suite: Suite, found: Found) -> None:
    """Our captured bf16 step, our fp32 one, and the released-style one, in the same rounds; data left out of all."""
    found["kernels"] = released_code.kernels(suite.device)
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


def _released_step(suite: Suite, a: Architecture, cell: Cell) -> Callable[[], Any]:
    """An eager fp32 step: AdamW as timm makes it, weight averaging parameter by parameter."""
    model = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=cell.schedule, scan="chunked").to(suite.device)
    net = released_code.Released(model)
    optimizer = torch.optim.AdamW(optim.parameter_groups(model, cell.recipe.weight_decay), lr=1e-4)
    average = [p.detach().clone() for p in model.parameters()]
    images = torch.randn(suite.batch, 3, a.img_size, a.img_size, device=suite.device)
    targets = torch.full((suite.batch, CLASSES), 1 / CLASSES, device=suite.device)

    def step() -> None:
        loss = optim.loss(net(images), targets)
        loss.item()  # the released loop checks every loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, p in zip(average, model.parameters(), strict=True):
                mean.copy_(mean * cell.recipe.ema_decay + (1 - cell.recipe.ema_decay) * p)

    return step


def parts(suite: Suite, found: Found) -> None:
    """`famba bench` of the fast backends: measured against the bound, part by part."""
    for model in suite.models:
        for name in suite.fast:
            if model == "vim_small" and name != suite.choice.name:
                continue
            rates, measured = bench(suite.cell(model, "baseline"), suite.device, name, suite.rounds, small=suite.quick)
            found[f"{model} {name}"] = {"rates": asdict(rates), "parts": [asdict(part) for part in measured]}


def prediction(suite: Suite, found: Found) -> None:
    """`famba plan`'s calibrated prediction over the measured step, for cells that its probes have not seen."""
    for model in suite.models:
        probes = Probes(suite.cell(model, "baseline"), suite.device, suite.choice.name, CLASSES, small=suite.quick)
        made = {
            name: running(suite.cell(model, name), suite.device, suite.choice.name, CLASSES)
            for name in ("baseline", "upper")
        }
        runs = {**probes.runs, **{name: run for name, (_, run, _) in made.items()}}
        seconds = interleaved_s(runs, suite.device, suite.rounds)
        calibration = probes.calibration(seconds)
        found[model] = {name: calibration.step_s(counted) / seconds[name] for name, (counted, _, _) in made.items()}


class _Noise:
    """Images of CIFAR-100's shape."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        self.train_images = rng.integers(256, size=(images, 32, 32, 3), dtype=np.uint8)
        self.train_labels = rng.integers(CLASSES, size=images)
        self.test_images, self.test_labels = self.train_images[:1], self.train_labels[:1]
        self.classes = tuple(map(str, range(CLASSES)))


# what runs, in this order, and the seconds that it may take, with torch's start and the kernels' compilation
SECTIONS: dict[str, tuple[Callable[[Suite, Found], None], int]] = {
    "correctness": (correctness, 75),
    "whole_model": (whole_model, 40),
    "throughput": (throughput, 90),
    "released": (released, 70),
    "strategies": (strategies, 80),
    "parts": (parts, 60),
    "prediction": (prediction, 60),
}
