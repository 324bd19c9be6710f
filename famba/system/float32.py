"""How float32 matrices are multiplied. Every protocol fixes it, so that no default of torch or of a machine decides.

All of them multiply in full float32. `paper`: as the released scripts, which train without autocast. `fast`: what
autocast to bfloat16 leaves in float32 (matching, scan, optimiser) is left there for its precision, and TF32 would save
nothing measurable on it.
"""

import torch

from famba.results.row import Arithmetic


def fix() -> None:
    """Multiply in full float32 from now on: no TF32 in cuBLAS or cuDNN, no bfloat16 in a CPU's oneDNN."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def arithmetic() -> Arithmetic:
    """What is in force now."""
    return Arithmetic(
        float32_matmul=torch.get_float32_matmul_precision(),  # type: ignore[arg-type]
        tf32=torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    )
