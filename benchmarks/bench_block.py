"""One block of Vim-Ti, forward and backward, with and without fusion: against the same block over `chunked`."""

import pytest
import torch

from famba.methods.famba_v import FambaV
from famba.methods.interface import Tokens
from famba.mixer import Mixer
from famba.model import Block

BATCH, TOKENS, CHANNELS = 16, 197, 192


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fused", [0, 7])
def bench_against_chunked(versus, backend, fused, precision):
    hidden, residual = (torch.randn(BATCH, TOKENS, CHANNELS, requires_grad=True) for _ in range(2))

    def run_of(scan):
        mixer = Mixer(CHANNELS, backend=scan)
        mixer.reset_parameters(depth=24)
        block = Block(mixer, CHANNELS, 0, fused, FambaV() if fused else None)
        inputs = (hidden, residual, *block.parameters())

        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                out, stream, _ = block(hidden, residual, Tokens(TOKENS // 2), torch.zeros(BATCH, dtype=torch.long))
            return torch.autograd.grad(out.float().sum() + stream.sum(), inputs)

        return run

    versus(run_of(backend), {"chunked": run_of("chunked")}, rounds=7)
