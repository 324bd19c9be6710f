"""The model against the official one's golden arrays, its published sizes, and its initialisation."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import famba
from famba.errors import InputError
from famba.training.checks import measured_tokens
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "files" / "vim_micro.npz")


def golden(prefix: str, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): torch.from_numpy(GOLDEN[n]).to(dtype) for n in GOLDEN.files if n.startswith(prefix)}


def micro(**kwargs) -> famba.VisionMamba:
    return famba.VisionMamba(embed_dim=32, depth=4, num_classes=10, img_size=32, patch_size=8, **kwargs)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_logits_and_every_gradient_are_the_official_model_s(backend, dtype, tolerance):
    model = micro(scan=backend, stride=16).to(
        dtype
    )  # the golden model leaves Vim's default stride under its patches of 8
    model.load_state_dict(golden("state/", dtype), strict=True)
    logits = model(torch.from_numpy(GOLDEN["images"]).to(dtype))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(GOLDEN["labels"]))
    loss.backward()

    def assert_near(actual, expected):
        assert (actual.double() - expected).norm() <= tolerance * expected.norm()

    assert logits.dtype == dtype
    assert_near(logits, torch.from_numpy(GOLDEN["logits"]))
    assert_near(loss, torch.tensor(float(GOLDEN["loss"]), dtype=torch.float64))
    gradients = golden("grad/")
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert_near(parameter.grad, gradients[name])


def test_state_dict_writes_the_official_names():
    assert micro(stride=16).state_dict().keys() == golden("state/").keys()


@pytest.mark.parametrize(
    ("build", "classes", "parameters"),
    [
        (famba.vim_tiny, 100, 6_974_308),
        (famba.vim_tiny, 1000, 7_148_008),
        (famba.vim_small, 100, 25_450_084),
        (famba.vim_small, 1000, 25_796_584),
    ],
)
def test_published_sizes(build, classes, parameters):
    assert sum(p.numel() for p in build(num_classes=classes).parameters()) == parameters


def test_initialisation_is_vim_s():
    torch.manual_seed(0)
    model = famba.vim_tiny()
    state = model.state_dict()
    assert state["pos_embed"].std() == pytest.approx(0.02, rel=0.05)
    assert state["head.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert state["patch_embed.proj.weight"].std() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.05)
    for i in (0, 23):
        mixer = {n.removeprefix(f"layers.{i}.mixer."): p for n, p in state.items()}
        for suffix in ("A_log", "A_b_log"):
            assert torch.equal(mixer[suffix][5], torch.arange(1, 17).log())
        delta = torch.nn.functional.softplus(mixer["dt_proj.bias"])
        assert delta.min() >= 0.99e-3
        assert delta.max() <= 0.101
        assert delta.log().mean() == pytest.approx((math.log(1e-3) + math.log(0.1)) / 2, abs=0.3)
        assert not mixer["dt_proj_b.bias"].any()
        assert mixer["dt_proj.weight"].abs().max() <= 12**-0.5
        # kaiming uniform with a = sqrt(5) is U(+-1/sqrt(fan_in)), here divided by sqrt(depth)
        bound = (384 * 24) ** -0.5
        assert 0.95 * bound < mixer["out_proj.weight"].abs().max() <= bound
        assert mixer["D"].eq(1).all()
    assert state["norm_f.weight"].eq(1).all()
    for name in ("patch_embed.proj.bias", "head.bias"):
        assert not state[name].any()


@pytest.mark.parametrize("cls_position", ["middle", "head"])
def test_class_token_enters_where_it_should(cls_position):
    model = micro(cls_position=cls_position)
    assert model.cls_index == {"middle": 8, "head": 0}[cls_position]
    # the output depends on the class token, and on nothing but it where all else is zero
    with torch.no_grad():
        for p in (model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.pos_embed):
            p.zero_()
        for block in model.layers:
            block.mixer.out_proj.weight.zero_()
        expected = model.head(model.norm_f(model.cls_token[0]))
        assert torch.allclose(model(torch.randn(2, 3, 32, 32)), expected.expand(2, -1), atol=1e-6)


@pytest.mark.parametrize("fusion", ["all", "interleaved", "lower", "upper", (0, 3, 0, 5)])
@pytest.mark.parametrize("cls_position", ["middle", "head"])
@pytest.mark.parametrize("order", ["sequence", "tome"])
def test_measured_tokens_follow_the_schedule(fusion, cls_position, order):
    model = micro(fusion=fusion, cls_position=cls_position, order=order)
    images = torch.randn(2, 3, 32, 32)
    assert measured_tokens(model, images) == model.scheduled_tokens
    model(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_paper_strategies_end_with_the_paper_s_token_counts():
    finals = {"baseline": 197, "all": 29, "interleaved": 29, "lower": 26, "upper": 26, "lower_18": 35, "upper_18": 35}
    for fusion, final in finals.items():
        assert famba.vim_tiny(fusion=fusion).scheduled_tokens[-1] == final


def test_the_class_token_survives_fusion():
    """With mixing switched off, the class token must come out of any number of fusions untouched."""
    for cls_position in ("middle", "head"):
        model = micro(cls_position=cls_position, fusion=(4, 3, 2, 1))
        with torch.no_grad():
            for block in model.layers:
                block.mixer.out_proj.weight.zero_()
            expected = model.head(model.norm_f(model.cls_token[0, 0] + model.pos_embed[0, model.cls_index]))
            assert torch.allclose(model(torch.randn(5, 3, 32, 32)), expected.expand(5, -1), atol=1e-6)


@pytest.mark.parametrize("scan", ["reference", "chunked"])
def test_residual_stays_float32_under_autocast(scan):
    model = micro(scan=scan, fusion="all")
    seen = []
    for block in model.layers:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output[1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32))
    logits.float().sum().backward()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"img_size": 30}, "img_size 30 is not a multiple of patch_size 8"),
        ({"cls_position": "end"}, "cls_position must be 'middle' or 'head', found 'end'"),
        ({"order": "random"}, "order must be 'sequence' or 'tome'"),
        ({"fusion": "uper"}, "did you mean 'upper'"),
        ({"fusion": (1, 2)}, "fusion needs 4 whole numbers"),
        ({"fusion": (0, 0, 0, 1.5)}, "fusion needs 4 whole numbers"),
        ({"stride": 0}, "stride must be at least 1, found 0"),
        ({"patch_size": 0}, "patch_size must be at least 1, found 0"),
        ({"d_conv": 0}, "d_conv must be at least 1, found 0"),
    ],
)
def test_sizes_that_do_not_fit_are_one_clear_error(kwargs, message):
    with pytest.raises(InputError, match=message):
        famba.VisionMamba(**{"embed_dim": 32, "depth": 4, "img_size": 32, "patch_size": 8, **kwargs})


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="takes 32 x 32"):
        micro()(torch.randn(1, 3, 64, 64))


def test_public_names_need_no_import_of_their_own():
    code = "import famba; famba.fusion.strategy('upper'); famba.scan.selective_scan; famba.vim_tiny"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_a_compiled_model_is_the_same_model():
    """torch.compile cannot see into the C++ kernels, so others run; no segmentation fault."""
    model = famba.VisionMamba(16, 1, num_classes=5, img_size=16, patch_size=4, fusion=(2,))
    images = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
