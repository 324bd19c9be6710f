"""The evaluation of a model on the test set: forward pass, top-1 and top-5, and the predicted classes."""

from collections.abc import Callable

import torch
from torch import Tensor

from famba.data.loader import EvalLoader
from famba.model import VisionMamba
from famba.ops.types import Autocast
from famba.training import checks
from famba.training.step import CAPTURE_MODE


class Forward:
    """Logits for evaluation."""

    def __init__(self, model: VisionMamba, autocast: Autocast) -> None:
        self.model, self.autocast = model, autocast

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """images (b, 3, S, S) -> (b, classes)."""
        self.model.eval()
        with self.autocast():
            return self.model(images)


class CapturedForward(Forward):
    """The same as one CUDA graph of the first batch's size, into which smaller batches are padded."""

    _graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """See `Forward`; the result is overwritten by the next call."""
        self.model.eval()  # what follows an evaluation finds the model as it leaves `Forward`
        if self._graph is None:
            self._images = images.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                super().__call__(self._images)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode=CAPTURE_MODE):
                self._logits = super().__call__(self._images)
        self._images[: len(images)].copy_(images)
        self._graph.replay()
        return self._logits[: len(images)]


def predict(
    forward: Forward, images: EvalLoader, classes: int, each_batch: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """The likeliest classes of every test image, and how many images have a logit that is not finite.

    `each_batch` is called after every one; what it raises ends the evaluation.

    Returns:
        (N, k) int64 in the test set's order, zeros for other processes' images; () int64 of this process's.
    """
    found = torch.zeros(len(images), min(5, classes), device=images.device).long()
    broken = torch.zeros((), dtype=torch.long, device=images.device)
    for places, (batch, _) in zip(images.places, images, strict=True):
        logits = forward(batch)
        found[places] = top5(logits)
        broken += (~logits.isfinite()).any(dim=1).sum()
        each_batch()
    return found, broken


def lengths(forward: Forward, images: EvalLoader, each_batch: Callable[[], None]) -> Tensor:
    """(N, depth + 1) int64: `VisionMamba.lengths` of every test image in its order; zeros for other processes'.

    Raises CheckFailed where more tokens have gone than may.
    """
    model = forward.model.eval()
    found = torch.zeros(len(images), len(model.layers) + 1, device=images.device).long()
    with torch.inference_mode(), forward.autocast():
        for places, (batch, _) in zip(images.places, images, strict=True):
            found[places] = model.lengths(batch)
            checks.check_lengths(model, found[places])
            each_batch()
    return found


def top5(logits: Tensor) -> Tensor:
    """(b, k) classes by falling logit; k is 5, or the number of classes if that is smaller."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices
