"""The backend `triton`: every operator in Triton, for CUDA devices.

With TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors, slowly: for tests."""

from functools import partial

from famba.ops import autograd
from famba.ops.triton.launch import unavailable  # noqa: F401
from famba.ops.triton.scan import conv_backward, conv_forward, scan_backward, scan_forward
from famba.ops.triton.tokens import groups, match, merge, merge_backward, norm, norm_backward  # noqa: F401
from famba.ops.types import Passes

passes = Passes(scan_forward, scan_backward, conv_forward, conv_backward)
conv, scan = partial(autograd.conv, passes), partial(autograd.scan, passes)
