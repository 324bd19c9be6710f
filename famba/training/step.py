"""One optimiser step: gradients of the micro-batches, their sum over processes, AdamW, the moving average."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from famba.config import Recipe
from famba.methods import draws
from famba.model import VisionMamba
from famba.ops.types import Autocast
from famba.system.malloc import keep_freed_memory
from famba.training import ema, optim
from famba.training.distributed import Processes

Batch = tuple[Tensor, Tensor]  # images (m, 3, S, S), soft targets (m, classes)

_WARMUP_RUNS = 3  # on a side stream before a capture, as torch.cuda.graph asks: libraries settle their workspaces
# check only this thread for calls that are illegal during capture; DataLoader threads pin memory
CAPTURE_MODE = "thread_local"


class Step:
    """A whole optimiser step, run operator by operator.

    Args:
        model, optimizer, ema: what the step updates.
        settings: `global_batch` weighs each micro-batch's loss.
        autocast: the precision of the forward pass.
        world: the processes that share the global batch.
    """

    def __init__(
        self,
        model: VisionMamba,
        optimizer: torch.optim.AdamW,
        ema: ema.Ema,
        settings: Recipe,
        autocast: Autocast,
        world: Processes,
    ) -> None:
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.autocast, self.world = autocast, world
        self.global_batch = settings.global_batch
        keep_freed_memory()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Take one step; returns the global batch's mean loss, a scalar on the device that nobody has waited for."""
        loss = self.gradients(batches)
        self.update()
        return loss

    def gradients(self, batches: Sequence[Batch], key: int = 0) -> Tensor:
        """Leave the global batch's gradient in the parameters; returns its mean loss.

        key: of this step's random draws (`Seen.uniform`), which do not depend on the size of micro-batches.
        """
        loss = torch.zeros((), device=batches[0][0].device)
        for images, targets in batches:
            self.model.key.fill_(key)
            key = draws.later(key, len(images))
            loss += self.backward(images, targets)
        self.world.all_sum_([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        return loss

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Add one micro-batch's share of the gradient; returns its share of the loss."""
        with self.autocast():
            logits = self.model(images)
        loss = optim.loss(logits, targets) * (len(images) / self.global_batch)
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Move parameters and average, and clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)


class CapturedStep(Step):
    """The same step as two CUDA graphs: one micro-batch's gradients, and the update. Every shape is static.

    Captured at the first call. The learning rate must be a tensor that is filled in place (see `optim.optimizer`).
    """

    _ready = False

    def gradients(self, batches: Sequence[Batch], key: int = 0) -> Tensor:
        """See `Step.gradients`; replays the captured graph once for each micro-batch."""
        if not self._ready:
            self._capture(batches[0])
        self._loss.zero_()
        for images, targets in batches:
            if images.shape != self._images.shape:
                raise ValueError(f"captured for {tuple(self._images.shape)}, got a batch of {tuple(images.shape)}")
            self._images.copy_(images)
            self._targets.copy_(targets)
            self.model.key.fill_(key)
            key = draws.later(key, len(images))
            self._backward_graph.replay()
        self.world.all_sum_([self._loss, *self._grads])
        return self._loss.clone()

    def update(self) -> None:
        """See `Step.update`."""
        self._update_graph.replay()

    def _capture(self, batch: Batch) -> None:
        """Record both graphs on the first micro-batch, and leave parameters, averages and optimiser as they were."""
        self._images, self._targets = (tensor.clone() for tensor in batch)
        self._loss = torch.zeros((), device=self._images.device)
        self._grads = [torch.zeros_like(p) for p in self.parameters]
        for parameter, grad in zip(self.parameters, self._grads, strict=True):
            parameter.grad = grad  # static memory that the graphs add into and clear
        before = self._state()
        untouched = {address: value.cpu() for address, value in before.items()}  # the peak of memory is to be a step's
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), warnings.catch_warnings():
            # AdamW warns of a captured optimiser that runs without a capture, as it must here
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            for _ in range(_WARMUP_RUNS):
                self._accumulate()
                self._apply()
        torch.cuda.current_stream().wait_stream(side)
        self._backward_graph, self._update_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._backward_graph, capture_error_mode=CAPTURE_MODE):
            self._accumulate()
        with torch.cuda.graph(self._update_graph, capture_error_mode=CAPTURE_MODE):
            self._apply()
        with torch.no_grad():
            for address, value in self._state().items():  # in place: the graphs hold these very tensors
                value.copy_(untouched[address]) if address in untouched else value.zero_()
        torch._foreach_zero_(self._grads)
        self._loss.zero_()
        self._ready = True

    def _state(self) -> dict[int, Tensor]:
        """Every tensor that a step changes, by its address. AdamW makes its own at the first step, as zeros."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*(p.detach() for p in self.parameters), *self.ema.state_dict().values(), *moments]
        return {tensor.data_ptr(): tensor for tensor in tensors}

    def _accumulate(self) -> None:
        # into gradients of their own first: to those that are there autograd would add one by one, a launch for each
        for parameter in self.parameters:
            parameter.grad = None
        self._loss += self.backward(self._images, self._targets)
        fresh = [(sums, p.grad) for p, sums in zip(self.parameters, self._grads, strict=True) if p.grad is not None]
        torch._foreach_add_(*map(list, zip(*fresh, strict=True)))
        for parameter, sums in zip(self.parameters, self._grads, strict=True):
            parameter.grad = sums

    def _apply(self) -> None:
        self.optimizer.step()
        torch._foreach_zero_(self._grads)
        self.ema.update(self.model)
