"""The forward pass of an evaluation, operator by operator or as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from famba.model import VisionMamba
from famba.ops.types import Autocast
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
