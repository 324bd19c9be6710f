"""The backend `cpu`: every operator in C++."""

from functools import partial

from famba.ops import autograd
from famba.ops.cpp.build import unavailable  # noqa: F401
from famba.ops.cpp.scan import conv_backward, conv_forward, scan_backward, scan_forward
from famba.ops.cpp.tokens import groups, match, merge, merge_backward, norm, norm_backward  # noqa: F401
from famba.ops.types import Passes

passes = Passes(scan_forward, scan_backward, conv_forward, conv_backward)
conv, scan = partial(autograd.conv, passes), partial(autograd.scan, passes)
