"""Where the tests of the Triton kernels run: on a GPU where there is one, else under Triton's interpreter.

The interpreter must be asked for before the kernels are imported and would then be on for every other test of the
session. So one test of each file runs that file again in a process of its own, where TRITON_INTERPRET=1 is set.
"""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from famba.ops.triton import backend
from tests.helpers import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")


def with_kernels(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs the kernels, where they run."""
    reason = "runs in test_the_kernels_under_the_interpreter"
    here = backend.unavailable(DEVICE, torch.float32) is None
    return pytest.mark.kernels(pytest.mark.skipif(not here, reason=reason)(test))


def run_under_the_interpreter(file: str) -> None:
    if DEVICE.type == "cuda" or INTERPRETED:
        pytest.skip("the other tests of this file run the kernels already")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not gpu", file],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
