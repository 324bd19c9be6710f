"""What a caller of the scan is told: bad shapes and types, and which backend runs and why."""

import pytest
import torch

from famba.errors import InputError
from famba.ops import BACKENDS, available, causal_conv, choose, directional_scan, selective_scan
from famba.ops.dispatch import BY_NAME
from tests.helpers.backends import EVERY, Compared
from tests.helpers.scan_cases import scan_inputs


def test_a_wrong_shape_names_the_tensor_and_both_shapes() -> None:
    here = Compared("reference", BY_NAME["reference"], torch.device("cpu"))
    inputs = scan_inputs(here) | {"B": torch.zeros(2, 2, 11, 4, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"B has shape \(2, 2, 11, 4\), expected \(2, 2, 11, 3\)"):
        directional_scan(**inputs)
    with pytest.raises(ValueError, match=r"weight has shape"):
        causal_conv(torch.zeros(1, 4, 3), torch.zeros(1, 2, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="3 directions"):
        causal_conv(torch.zeros(1, 4, 3), torch.zeros(3, 3, 4), torch.zeros(3, 3))
    u = torch.zeros(1, 5, 4)
    with pytest.raises(ValueError, match="groups that divide 5 channels"):
        selective_scan(u, u, torch.zeros(5, 2), torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))


# the choice of a backend


def test_auto_takes_the_first_that_runs_and_says_why_not_the_others() -> None:
    choice = choose("cpu", torch.float32)
    rows = available("cpu", torch.float32)
    assert [name for name, _, _ in rows] == list(BACKENDS)
    assert choice.name == next(name for name, ok, _ in rows if ok)
    for name, _, reason in rows[: BACKENDS.index(choice.name)]:
        assert f"{name} {reason}" in choice.reason
    assert "\n" not in choice.reason


def test_every_backend_has_its_tests() -> None:
    names = (getattr(param, "values", (param,))[0] for param in EVERY)
    assert {name.split()[0] for name in names} == set(BACKENDS)


def test_auto_for_float64_on_a_cpu_is_chunked() -> None:
    assert choose("cpu", torch.float64).name == "chunked"


def test_a_request_is_met_or_refused() -> None:
    assert choose("cpu", requested="reference").name == "reference"
    with pytest.raises(InputError, match=r"'mamba_ssm' needs a CUDA device; choose auto or one of: .*chunked"):
        choose("cpu", requested="mamba_ssm")
    with pytest.raises(InputError, match=r"'refrence' is unknown.*did you mean 'reference'"):
        choose("cpu", requested="refrence")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_a_cuda_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no backend runs float32 on cuda .*torch sees none"):
        choose("cuda")


def test_integers_are_refused() -> None:
    with pytest.raises(InputError, match="not int64"):
        choose("cpu", torch.int64, "chunked")
