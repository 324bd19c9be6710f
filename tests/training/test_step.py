"""An optimiser step on a GPU: that it can be captured as a CUDA graph, and that the captured one is the same."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from famba.config import Recipe
from famba.fusion import STRATEGIES, match, strategy
from famba.model import VisionMamba
from famba.training import optim
from famba.training.distributed import Processes
from famba.training.ema import Ema
from famba.training.evaluate import CapturedForward, Forward
from famba.training.step import CapturedStep, Step
from tests.helpers.method_cases import Case, label, own_settings

DEPTH, SIZE, CLASSES, BATCH = 4, 32, 10, 4
CUDA = torch.device("cuda")
SETTINGS = Recipe(global_batch=BATCH, mixup_batch=BATCH, micro_batch=BATCH, cuda_graphs=True)
# what waits for the device, or has a result whose shape the host must know
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

OF_EACH_METHOD: list[Case] = [  # with all of its code
    ("famba_v", {"size_weighted": True}),
    ("famba_v", {"placement": "inside"}),
    ("rmeeto", {"feature": "delta"}),
    ("hsa", {}),
    ("utr", {}),
    ("mtr", {}),
    ("random_merge", {}),
    ("random_prune", {"placement": "after"}),
]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def model(name: str, scan: str = "chunked", **method: Any) -> VisionMamba:
    torch.manual_seed(0)
    schedule = strategy(name, DEPTH, tokens=65)
    return VisionMamba(
        embed_dim=32,
        depth=DEPTH,
        img_size=SIZE,
        patch_size=4,
        num_classes=CLASSES,
        fusion=schedule,
        scan=scan,
        **method,
    )


def batches(count: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(BATCH, 3, SIZE, SIZE, generator=generator).to(device),
            torch.full((BATCH, CLASSES), 0.1).to(device),
        )
        for _ in range(count)
    ]


# without a GPU: on the device that has shapes and no values, every branch but the CPU's is taken


class Watch(TorchDispatchMode):
    """Refuses what a capture refuses: operators that wait, and tensors of another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(word in str(func) for word in WAITING), f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            assert not isinstance(tensor, Tensor) or tensor.device.type == "meta", f"{func} made a tensor on the host"
        return out


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which nothing is copied between host and device. (Autocast does not know the meta device.)"""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.float32)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)

    def refuse(name: str) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            raise AssertionError(f"{name} copies between host and device")

        return call

    def context() -> AbstractContextManager[Any]:
        for name in ("tensor", "as_tensor", "from_numpy"):
            monkeypatch.setattr(torch, name, refuse(f"torch.{name}"))
        for name in ("item", "tolist", "numpy", "cpu", "cuda", "__bool__", "__int__", "__float__"):
            monkeypatch.setattr(Tensor, name, refuse(f"Tensor.{name}"))
        return Watch()

    return context


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_exchanges_nothing_with_the_host(name: str, watched: Callable[[], AbstractContextManager[Any]]) -> None:
    exchanges_nothing(model(name), watched)


@pytest.mark.parametrize("case", OF_EACH_METHOD, ids=label)
def test_no_method_exchanges_anything_with_the_host(
    case: Case, watched: Callable[[], AbstractContextManager[Any]]
) -> None:
    name, settings = case
    place = settings.get("placement")
    cls_position = "head" if place == "inside" else "middle"
    by = {"method": name, "settings": own_settings(settings), "placement": place, "cls_position": cls_position}
    net = VisionMamba(32, 3, CLASSES, SIZE, patch_size=8, fusion=(0, 3, 2), scan="chunked", **by)
    exchanges_nothing(net, watched)


def exchanges_nothing(net: VisionMamba, watched: Callable[[], AbstractContextManager[Any]]) -> None:
    net = net.to("meta")
    optimizer = optim.optimizer(net, SETTINGS)
    step = Step(net, optimizer, Ema(net, 0.9), SETTINGS, nullcontext, Processes())
    (batch,) = batches(1, torch.device("meta"))
    with watched():
        loss = step.backward(*batch)
        logits = Forward(net, nullcontext)(batch[0])
    assert loss.device.type == logits.device.type == "meta"
    assert all(p.grad is not None for p in net.parameters())


def test_the_watch_sees_what_it_is_to_refuse(watched: Callable[[], AbstractContextManager[Any]]) -> None:
    x = torch.zeros(3, device="meta")
    with watched():
        for exchange in (
            lambda: torch.as_tensor(3, device="meta"),
            lambda: torch.tensor([1.0], device="meta"),
            lambda: x.sum().item(),
            lambda: x[x > 0],
            lambda: x + torch.zeros(3),
            lambda: torch.from_numpy(np.zeros(3)),
        ):
            with pytest.raises((AssertionError, NotImplementedError), match=r"host|device|nonzero"):
                exchange()


def test_what_is_captured_adds_up_the_gradients() -> None:
    """The captured part itself, run without a capture."""
    sums = []
    for kind in (Step, CapturedStep):
        net = model("upper")
        step = kind(net, optim.optimizer(net, SETTINGS), Ema(net, 0.9), SETTINGS, nullcontext, Processes())
        if isinstance(step, CapturedStep):
            step._loss, step._grads = torch.zeros(()), [torch.zeros_like(p) for p in step.parameters]
            for step._images, step._targets in batches(2, torch.device("cpu")):
                step._accumulate()
            assert all(p.grad is total for p, total in zip(step.parameters, step._grads, strict=True))
        else:
            step.gradients(batches(2, torch.device("cpu")))
        sums.append([p.grad for p in step.parameters])
    for one_by_one, together in zip(*sums, strict=True):
        torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize("protected", [None, 4, torch.tensor([4, 2])])
def test_the_class_tokens_place_may_be_a_number_or_a_tensor(protected: int | Tensor | None) -> None:
    metric = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    pairs = match(metric, 2, protected)
    if protected is None:
        assert pairs.protected is None
    else:
        assert pairs.cls.tolist() == torch.as_tensor(protected).expand(2).tolist()


# on a GPU


def autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16)


def training(kind: type[Step], name: str) -> tuple[VisionMamba, Ema, Step]:
    net = model(name, "auto").to(CUDA)
    settings = SETTINGS if kind is CapturedStep else SETTINGS.model_copy(update={"cuda_graphs": False})
    ema = Ema(net, 0.9)
    return net, ema, kind(net, optim.optimizer(net, settings), ema, settings, autocast, Processes())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", STRATEGIES)
def test_captured_steps_are_the_eager_ones(name: str) -> None:
    """Three steps with a new learning rate before the last; then evaluation, with the average in the model's place."""
    ended = {}
    for kind, evaluation in ((Step, Forward), (CapturedStep, CapturedForward)):
        net, ema, step = training(kind, name)
        losses = []
        for number, batch in enumerate(batches(3, CUDA)):
            optim.set_learning_rate(step.optimizer, 1e-3 / (number + 1))
            net.train()
            losses.append(step([batch]))
        forward = evaluation(net, autocast)
        images = batches(4, CUDA)[-1][0]
        raw = [forward(images).clone(), forward(images[:2]).clone()]
        net.train()
        with ema.applied_to(net):
            averaged = forward(images).clone()
        assert not net.training
        ended[kind] = [torch.stack(losses), *raw, averaged, *net.state_dict().values(), *ema.state_dict().values()]
    for eager, captured in zip(ended[Step], ended[CapturedStep], strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_capture_changes_nothing_and_resumes() -> None:
    """State that was loaded before the capture is what the first captured step starts from."""
    net, ema, step = training(Step, "upper")
    first, second = batches(2, CUDA)
    step([first])
    state = [net.state_dict(), ema.state_dict(), optim.state_dict(step.optimizer)]
    state = [{k: v.clone() if isinstance(v, Tensor) else v for k, v in part.items()} for part in state]
    step([second])
    again, average, captured = training(CapturedStep, "upper")
    again.load_state_dict(state[0])
    average.load_state_dict(state[1])
    optim.load_state_dict(captured.optimizer, state[2])
    captured([second])
    for got, want in zip(again.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-3)
