"""Triton's kernels without a GPU: the tests of tests/ops that run them, under Triton's interpreter."""

import pytest

from tests.helpers.backends import run_triton_under_its_interpreter


@pytest.mark.slow
@pytest.mark.parametrize("files", [["test_scan.py"], ["test_block.py", "test_tokens.py", "test_triton_scan.py"]])
def test_the_kernels_give_what_the_reference_gives(files: list[str]) -> None:
    run_triton_under_its_interpreter(*files)
