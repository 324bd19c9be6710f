"""The public functions answer arguments that cannot be in words, and what cannot be traced in one line."""

import numpy as np
import pytest
import torch

import famba
from famba import fusion, scan
from famba.errors import InputError

IMAGES = torch.zeros(2, 3, 16, 16)


@pytest.fixture(scope="module")
def model() -> famba.VisionMamba:
    return famba.VisionMamba(8, 2, 10, img_size=16, patch_size=4, fusion=np.array([2, 2]), scan="reference").eval()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:0], "none of its sizes may be 0"),
        (IMAGES[0], r"takes images \(B, 3, S, S\) of real numbers, got torch.float32 \(3, 16, 16\)"),
        (IMAGES.int(), "of real numbers, got torch.int32"),
        (IMAGES.to(torch.complex64), "of real numbers, got torch.complex64"),
        ("images", "of real numbers, got str"),
        (IMAGES[:, :2], "images of 3 channels on cpu, got 2 on cpu"),
        (IMAGES.to("meta"), "images of 3 channels on cpu, got 3 on meta"),
        (IMAGES.double(), "takes torch.float32 images outside of autocast, got torch.float64"),
        (IMAGES[..., :8], "takes 16 x 16 images"),
    ],
)
def test_a_model_says_which_images_it_takes(images, message, model):
    with pytest.raises(ValueError, match=message):
        model(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": "x"}, "num_classes must be a whole number, found 'x'"),
        ({"img_size": 224.0}, "img_size must be a whole number, found 224.0"),
        ({"num_classes": 0}, "num_classes must be at least 1, found 0"),
        ({"fusion": 3}, "fusion is the name of a strategy or one whole number per layer, found 3"),
        ({"fusion": ["a"] * 24}, "fusion needs 24 whole numbers"),
        ({"fusion": [1.5] * 24}, "fusion needs 24 whole numbers"),
        ({"scan": "cup"}, "scan backend 'cup' is unknown: expected auto,.*did you mean 'cpu'"),
        ({"scan": 3}, "scan backend 3 is unknown"),
        ({"settings": 3}, "settings are a mapping of names to values, found 3"),
        ({"method": "x", "fusion": "upper"}, "unknown method 'x'"),
    ],
)
def test_a_model_says_which_settings_it_takes(arguments, message):
    with pytest.raises(InputError, match=message):
        famba.vim_tiny(**arguments)


U, A, B = torch.zeros(1, 4, 8), torch.zeros(4, 2), torch.zeros(1, 2, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fusion.match("x", 2), "metric must be a tensor"),
        (lambda: fusion.match(B, 1.5), "r must be a whole number, got 1.5"),
        (lambda: fusion.match(B, None), "r must be a whole number, got None"),
        (lambda: fusion.match(B, 1, 0.5), "protected must be a whole number, got 0.5"),
        (lambda: fusion.strategy("upper", "x"), "whole numbers for depth and tokens, found 'x' and None"),
        (lambda: fusion.strategy(3), "unknown fusion strategy 3"),
        (lambda: scan.selective_scan(U, "x", A, B, B), "delta is a str, expected a tensor"),
        (lambda: scan.selective_scan(U, U, A, B, B, D=A[:, 0].to("meta")), "D is on meta, and u on cpu"),
        (lambda: scan.selective_scan(U, U, A[:3], B, B), "A has shape"),
    ],
)
def test_fusion_and_scan_say_what_they_take(call, message):
    with pytest.raises((ValueError, InputError), match=message):
        call()


@pytest.mark.filterwarnings("ignore")  # of the tracer and of the older export, about themselves
def test_a_fused_model_is_traced_by_torch_export_alone(model, tmp_path):
    with torch.no_grad():
        assert torch.export.export(model, (IMAGES,)).module()(IMAGES).shape == (2, 10)
        for trace in (
            lambda: torch.jit.trace(model, IMAGES),
            lambda: torch.onnx.export(model, (IMAGES,), tmp_path / "x.onnx", dynamo=False),
        ):
            with pytest.raises(InputError, match=r"cannot follow a fusion; use torch\.export"):
                trace()
