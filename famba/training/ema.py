"""The moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a model's parameters: average <- decay * average + (1 - decay) * parameter.

    timm's ModelEma, without warm-up. A VisionMamba has no buffers, and none are averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the current parameters: once after each optimiser step."""
        torch._foreach_lerp_(list(self._average.values()), list(model.parameters()), 1 - self.decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the average as its parameters; after it, its own again.

        Values are copied into the same storage, so that captured graphs of the model stay valid.
        """
        parameters = [parameter.detach() for parameter in model.parameters()]
        own = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, list(self._average.values()))
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, under the model's parameter names."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over an average. Raises ValueError unless it has exactly this model's parameter names."""
        if state.keys() != self._average.keys():
            raise ValueError(f"not the average of this model: {sorted(state.keys() ^ self._average.keys())} differ")
        for name, average in self._average.items():
            average.copy_(state[name])
