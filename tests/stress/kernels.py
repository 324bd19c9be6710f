"""A seeded stress of all C++ kernels, built with AddressSanitizer: python tests/stress/kernels.py [CASES] [SEED]

Each case draws a use (types, default type and device, autocast, strides, sizes, NaN and infinity, ties, operands that
do not fit) and requires the right value, or a refusal in one line. Any read or write outside of a tensor ends the
process. The script starts itself again with the sanitizer's runtime preloaded. Needs g++.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from famba import fusion
from famba.errors import InputError
from famba.model import AddNorm, VisionMamba
from famba.ops import causal_conv, directional_scan, dispatch, reference
from famba.ops.cpp import backend, build
from famba.ops.cpp import scan as scan_kernels
from famba.ops.cpp import tokens as row_kernels
from famba.ops.types import ScanTensors, StreamGrads

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
READ = (torch.float32, torch.bfloat16)
NEAR = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 3e-2, torch.bfloat16: 0.1}
SPECIAL = (float("nan"), float("inf"), -float("inf"), 3e30, 1e-40)
REFUSALS = (TypeError, ValueError, InputError, RuntimeError)


@contextmanager
def defaults(dtype: torch.dtype, device: str | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


class Case:
    """What one case draws from."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, dense: bool = False) -> Tensor:
        """Of normal numbers, in one of several layouts; with contiguous features if `dense`."""
        wide = torch.randn(*shape, generator=self._generator, dtype=torch.float64, device="cpu").to(dtype)
        layout = self.draw.choice(("plain", "plain", "slice", "expanded", "transposed", "features"))
        if layout == "slice":  # at the end of a wider tensor
            base = wide.new_zeros(*shape[:-1], shape[-1] + self.draw.randint(1, 5))
            base[..., -shape[-1] :] = wide
            return base[..., -shape[-1] :] if shape[-1] else wide
        if layout == "expanded" and len(shape) > 1:
            return wide[:1].expand(shape)
        if layout == "transposed" and len(shape) > 2:
            return wide.transpose(0, 1).contiguous().transpose(0, 1)
        if layout == "features" and len(shape) > 1 and not dense:
            return wide.mT.contiguous().mT
        return wide

    def spoilt(self, x: Tensor) -> Tensor:
        """x with a share of special values."""
        share = self.draw.choice((0.02, 0.3, 1.0))
        here = torch.rand(x.shape, generator=self._generator, device="cpu") < share
        values = torch.tensor(SPECIAL, dtype=torch.float32, device="cpu")
        chosen = torch.randint(len(SPECIAL), x.shape, generator=self._generator, device="cpu")
        return x.where(~here, values[chosen].to(x.dtype))

    def size(self, *choices: int) -> int:
        return self.draw.choice(choices) if self.draw.random() < 0.5 else self.draw.randint(1, max(choices))


def both(run: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor]) -> list[Tensor]:
    """Results and gradients, in float64."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = run(*inputs)
    outs = [out] if isinstance(out, Tensor) else list(out)
    grads = torch.autograd.grad([x.double().sin().sum() for x in outs], inputs)
    return [x.detach().double() for x in (*outs, *grads)]


def agree(found: list[Tensor], expected: list[Tensor], near: float, what: str) -> None:
    for got, want in zip(found, expected, strict=True):
        if want.isfinite().all() and not (got - want).norm() <= near * (want.norm() + want.numel() ** 0.5):
            raise AssertionError(f"{what}: off by {(got - want).norm() / (want.norm() + 1e-30):.2g}")


def scan(case: Case) -> None:
    dtype, directions = case.draw.choice(READ), case.draw.randint(1, 2)
    batch, length = case.size(1, 2, 5), case.size(1, 3, 16, 65, 900 if case.draw.random() < 0.05 else 17)
    dim, state = case.size(1, 3, 16, 40), case.size(1, 5, 16, 17)
    u, delta, B, C = (case.tensor(directions, batch, length, n, dtype=dtype) for n in (dim, dim, state, state))
    A = -case.tensor(directions, dim, state).exp()
    D, bias = case.tensor(directions, dim), case.tensor(directions, dim)
    gate = [case.tensor(batch, length, dim, dtype=dtype)] if case.draw.random() < 0.7 else []
    inputs = [u, delta - 1, A, B, C, D, bias, *gate]
    special = case.draw.random() < 0.2
    if special:
        i = case.draw.randrange(len(inputs))
        inputs[i] = case.spoilt(inputs[i])

    def run(backend: str, *x: Tensor) -> Tensor:
        return directional_scan(*x[:6], x[7] if gate else None, x[6], backend)

    found = both(lambda *x: run("cpu", *x), inputs)
    if not special:
        exact = both(lambda *x: run("reference", *x), [x.double() for x in inputs])
        agree(found[:1], exact[:1], NEAR[dtype], "scan")
        agree(found[1:], exact[1:], 2 * NEAR[dtype], "gradients of scan")


def convolution(case: Case) -> None:
    dtype, directions = case.draw.choice(READ), case.draw.randint(1, 2)
    batch, length, dim, width = case.size(1, 3), case.size(1, 2, 17, 65), case.size(1, 16, 40), case.size(1, 4, 7)
    x, weight = case.tensor(batch, length, dim, dtype=dtype), case.tensor(directions, dim, width)
    inputs = [x, weight, case.tensor(directions, dim)]
    if case.draw.random() < 0.2:
        both(lambda *x: causal_conv(*x, "cpu"), [case.spoilt(x), *inputs[1:]])
        return
    exact = both(lambda *x: causal_conv(*x, "reference"), [x.double() for x in inputs])
    agree(both(lambda *x: causal_conv(*x, "cpu"), inputs), exact, NEAR[dtype], "convolution")


def norm(case: Case) -> None:
    shape = (case.draw.randint(0, 4), case.size(1, 9, 40), case.size(1, 3, 16, 40))
    with defaults(torch.float32, "cpu"):
        module, added = AddNorm(shape[-1]), case.draw.choice(TYPES)
    module.weight.data = case.tensor(shape[-1], dtype=case.draw.choice(TYPES)).contiguous()
    inputs = [case.tensor(*shape), case.tensor(*shape, dtype=added)]
    if case.draw.random() < 0.2:
        inputs[0] = case.spoilt(inputs[0])
    out = case.draw.choice(TYPES)
    with torch.no_grad():
        total = sum(x.double() for x in inputs)
        exact = torch.nn.functional.rms_norm(total, shape[-1:], module.weight.double(), module.eps)
    found = both(lambda *x: module(*x, out), inputs)
    near = max(NEAR[out], NEAR[added])
    if total.abs().max() < 1e6 if total.numel() else True:
        agree(found[:2], [exact, total], near, "norm")


def fused(case: Case) -> None:
    batch, tokens, channels = case.draw.randint(0, 3), case.size(1, 2, 3, 9, 65), case.size(1, 3, 16, 40)
    metric = case.tensor(batch, tokens, channels, dtype=case.draw.choice(TYPES))
    kind = case.draw.choice(("normal", "signs", "constant", "special"))
    if kind in ("signs", "constant"):
        metric = metric.sign() if kind == "signs" else torch.ones_like(metric)
    if kind == "special":
        metric = case.spoilt(metric)
    cls = case.draw.choice((None, 0, tokens // 2, "each"))
    if cls == "each":
        cls = torch.tensor([case.draw.randrange(tokens) for _ in range(batch)], dtype=torch.long, device="cpu")
    r, order = case.draw.randint(0, tokens), case.draw.choice(("sequence", "tome"))
    pairs = fusion.match(metric, r, cls)
    if kind != "normal":
        chosen, dispatch.token_backend = dispatch.token_backend, lambda _: reference
        try:
            other = fusion.match(metric, r, cls)
        finally:
            dispatch.token_backend = chosen
        if not all(torch.equal(getattr(pairs, n), getattr(other, n)) for n in ("source", "target", "kept", "tome")):
            raise AssertionError(f"C++ and torch match {kind} values differently")
    if cls is not None and pairs.r:
        place = torch.as_tensor(cls, device="cpu").expand(batch)[:, None]
        if (pairs.source == place).any() or (pairs.target == place).any():
            raise AssertionError("the class token is fused")
    dtype = case.draw.choice(TYPES)
    x = case.tensor(batch, tokens, channels, dtype=dtype)
    exact = both(lambda x: pairs.merge(x, order), [x.double()])
    agree(both(lambda x: pairs.merge(x, order), [x]), exact, NEAR[dtype], "merging")


def model(case: Case) -> None:
    torch.manual_seed(case.draw.randrange(10**6))
    dtype, patches = case.draw.choice(TYPES), case.draw.randint(1, 5)
    fusions = [case.draw.randint(0, 6) for _ in range(2)]
    with defaults(torch.float32, "cpu"):
        net = VisionMamba(
            case.size(1, 8, 16), 2, 3, 4 * patches, 4, d_state=case.size(1, 8), fusion=fusions,
            order=case.draw.choice(("sequence", "tome")), cls_position=case.draw.choice(("middle", "head")),
        ).to(dtype)  # fmt: skip
        if case.draw.random() < 0.3:
            for parameter in net.layers.parameters():
                if case.draw.random() < 0.3:
                    parameter.data = parameter.data.to(case.draw.choice(TYPES))
    images = case.tensor(case.draw.randint(0 if case.draw.random() < 0.1 else 1, 3), 3, *[4 * patches] * 2, dtype=dtype)
    if case.draw.random() < 0.2:
        images = case.spoilt(images)
    autocast = case.draw.choice((None, None, *HALVES))
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        logits = net(images)
    logits.double().square().sum().backward()


def misfits(case: Case) -> None:
    """Kernels called directly; one operand of another type, shape, device or layout, or an index that leads outside."""
    batch, tokens, dim, state, r = 2, 9, case.size(3, 16, 20), 5, 3
    pairs = fusion.match(case.tensor(batch, tokens, dim), r, 4)
    group, size, _ = reference.groups(pairs.kept, pairs.source, pairs.target, pairs.cls, tokens)
    x, grad = (torch.ones(batch, n, dim, device="cpu", dtype=torch.float32) for n in (tokens, tokens - r))
    weight, rstd = torch.ones_like(x[0, 0]), torch.ones_like(x[..., :1])
    streams = [torch.ones(2, batch, tokens, n, device="cpu", dtype=torch.float32) for n in (dim, dim, state, state)]
    A, z = -torch.ones_like(streams[0][:, 0, 0, :, None]).expand(-1, -1, state).contiguous(), torch.ones_like(x)
    taps, bias = torch.ones_like(A)[..., :4].contiguous(), torch.ones_like(A[..., 0])

    def backward(dout: Tensor, total: Tensor, states: Tensor, again: Tensor, *grads: Tensor) -> None:
        inputs = ScanTensors(streams[0], streams[1], A, streams[2], streams[3], bias, z, bias)
        scan_kernels.scan_backward(dout, inputs, (total, states), True, StreamGrads(*grads), again)

    calls: list[tuple[Callable[..., object], list[Tensor]]] = [
        (lambda *t: row_kernels.norm(t[0], t[1], t[2], 1e-5, torch.float32), [x, x.clone(), weight]),
        (lambda *t: row_kernels.norm_backward(*t, torch.float32), [x, x.clone(), x.clone(), weight, rstd]),
        (lambda m, c: row_kernels.match(m, r, c), [x, pairs.cls]),
        (lambda *t: row_kernels.groups(*t, tokens), [pairs.kept, pairs.source, pairs.target, pairs.cls]),
        (row_kernels.merge, [x, pairs.kept, pairs.source, group, size]),
        (lambda *t: row_kernels.merge_backward(*t, tokens), [grad, group, size]),
        (lambda *t: scan_kernels.scan_forward(ScanTensors(*t), True), [*streams[:2], A, *streams[2:], bias, z, bias]),
        (
            backward,
            [x, x.clone(), x.new_empty(0), x.clone(), *(torch.empty_like(s) for s in streams), torch.empty_like(z)],
        ),
        (scan_kernels.conv_forward, [x, taps, bias]),
        (scan_kernels.conv_backward, [streams[0], x, taps, bias, torch.empty_like(x)]),
    ]
    call, operands = case.draw.choice(calls)
    operands = list(operands)
    i = case.draw.randrange(len(operands))
    operands[i] = misfit(case, operands[i])
    call(*operands)


def misfit(case: Case, x: Tensor) -> Tensor:  # noqa: PLR0911 (one for each way)
    how = case.draw.choice(("type", "short", "long", "device", "strides", "overlap", "empty", "index", "flat"))
    if how == "type":
        return x.to(case.draw.choice((*TYPES, torch.int32, torch.int64)))
    if how == "device":
        return x.to("meta")
    if how == "index" and x.dtype == torch.long and x.numel():
        x = x.clone()
        x.view(-1)[case.draw.randrange(x.numel())] = case.draw.choice((-1, -(10**12), 10**12, 9, 18, 12))
        return x
    axis = case.draw.randrange(x.ndim)
    if how == "short":
        return x.narrow(axis, 0, max(0, x.shape[axis] - 1)).clone()
    if how == "long":
        return torch.cat([x, x.narrow(axis, 0, 1)], dim=axis) if x.numel() else x
    if how == "overlap" and x.numel():
        return x.narrow(axis, 0, 1).expand(x.shape)
    if how == "empty":
        return x.narrow(axis, 0, 0).clone()
    if how == "flat":
        return x.flatten()
    return x.mT.contiguous().mT if x.ndim > 1 else x.repeat_interleave(2)[::2]


USES = (scan, convolution, norm, fused, model, misfits)


def stress(cases: int, seed: int) -> Counter[str]:
    """Runs the cases; returns how many ran to their end, by use, and how many were refused."""
    counts: Counter[str] = Counter()
    for i in range(cases):
        case = Case(seed * 10**6 + i)
        use = USES[i % len(USES)]
        before = torch.get_num_threads()
        torch.set_num_threads(case.draw.choice((1, 2, 3)))
        try:
            with defaults(case.draw.choice(TYPES), case.draw.choice((None, None, "cpu", "meta"))):
                use(case)
            counts[use.__name__] += 1
        except REFUSALS as refusal:
            if len(str(refusal).strip().splitlines()) != 1:
                raise AssertionError(f"case {i}: a refusal of several lines") from refusal
            counts[f"{use.__name__}, refused"] += 1
            REASONS[str(refusal)[:70]] += 1
        except AssertionError as wrong:
            raise AssertionError(f"case {i} of seed {seed}: {wrong}") from wrong
        finally:
            torch.set_num_threads(before)
    return counts


REASONS: Counter[str] = Counter()


def sanitizer() -> str:
    """The runtime, which must be loaded before all others, and the C++ library whose exceptions it watches."""
    names = ("libasan.so", "libstdc++.so")
    found = (subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names)
    return " ".join(os.path.realpath(path) for path in found)


def main(cases: int, seed: int) -> int:
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        options = {"LD_PRELOAD": sanitizer(), "ASAN_OPTIONS": "detect_leaks=0", "CXX": "g++"}
        command = [sys.executable, __file__, *sys.argv[1:]]
        return subprocess.run(command, env=os.environ | options, check=False).returncode
    checks_by_calls = ("--param", "asan-instrumentation-with-call-threshold=0")  # compile in a quarter of the time
    build.FLAGS = (*build.FLAGS, "-fsanitize=address", "-fno-omit-frame-pointer", "-g1", *checks_by_calls)
    if dispatch.token_backend(torch.device("cpu")) is reference:
        raise SystemExit(f"the kernels cannot be built: {backend.unavailable(torch.device('cpu'), torch.float32)}")
    torch.set_warn_always(False)
    counts = stress(cases, seed)
    for use, count in sorted(counts.items()):
        print(f"{count:6d}  {use}")
    print(f"{counts.total():6d}  cases under AddressSanitizer, {build.instruction_set()}, seed {seed}")
    for reason, count in REASONS.most_common() if "-v" in sys.argv else ():
        print(f"{count:6d}  {reason}")
    return 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    sys.exit(main(*given, *(600, 0)[len(given) :]))
