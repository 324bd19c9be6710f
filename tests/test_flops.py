"""The cost model: its bookkeeping against what a forward pass really keeps, its counts against counts made by torch."""

import contextlib
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from famba import flops, ops
from famba.config import ARCHITECTURES, Architecture, Recipe
from famba.config.methods import Placement
from famba.flops import Work, cost, forward_flops, layer_cost, parameter_count, row_flops, scheduled_tokens, step_cost
from famba.fusion import match
from famba.methods.names import build
from famba.model import VisionMamba
from famba.ops.triton import scan
from famba.strategies import STRATEGIES, strategy
from famba.training.activations import saved_activation_bytes
from tests.helpers.method_cases import METHOD_CASES, label, made, tokens_seen
from tests.helpers.rows import experiment, make_row

CPU = torch.device("cpu")
SHAPES = {
    "narrow": Architecture(embed_dim=40, depth=4, img_size=64, patch_size=8),
    "odd": Architecture(embed_dim=24, depth=3, img_size=40, patch_size=8, d_state=12, expand=3, cls_position="head"),
    "overlapping": Architecture(embed_dim=32, depth=4, img_size=64, patch_size=16, stride=8),
    "long": Architecture(embed_dim=16, depth=2, img_size=88, patch_size=4),  # 485 tokens: the scan cuts time
}


def model_of(architecture, schedule, classes=7, backend="cpu"):
    return VisionMamba(**architecture.model_dump(), num_classes=classes, fusion=schedule, scan=backend)


def autocast(precision):
    return (lambda: torch.autocast("cpu", torch.bfloat16)) if precision == "bf16" else contextlib.nullcontext


def skip_without(backend):
    if backend not in [name for name, runs, _ in ops.available(CPU) if runs]:
        pytest.skip(f"the scan {backend} does not run here")


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy_name", ["baseline", "all", "interleaved"])
@pytest.mark.parametrize("shape", SHAPES)
def test_kept_activations_are_those_that_a_forward_pass_keeps(shape, strategy_name, precision, backend):
    skip_without(backend)
    architecture = SHAPES[shape]
    schedule = strategy(strategy_name, architecture.depth)
    measured = saved_activation_bytes(model_of(architecture, schedule, backend=backend), CPU, autocast(precision))
    predicted = cost(architecture, schedule, Recipe(precision=precision), 7, scan=backend).saved_per_image
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("placement", ["input", "after"])
def test_kept_activations_follow_the_place_of_the_method(placement):
    skip_without("cpu")
    architecture, schedule = SHAPES["narrow"], (0, 7, 20, 10)
    by = {"fusion": schedule, "placement": placement, "scan": "cpu"}
    model = VisionMamba(**architecture.model_dump(), num_classes=7, **by)
    predicted = cost(architecture, schedule, Recipe(), 7, method=model.method).saved_per_image
    assert predicted == saved_activation_bytes(model, CPU, contextlib.nullcontext)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape):
    architecture = SHAPES[shape]
    model = model_of(architecture, (0,) * architecture.depth)
    assert parameter_count(architecture, 7) == sum(p.numel() for p in model.parameters())


def test_parameters_of_the_published_models():
    assert parameter_count(ARCHITECTURES["vim_tiny"], 100) == 6_974_308
    assert parameter_count(ARCHITECTURES["vim_small"], 1000) == 25_796_584


@pytest.mark.parametrize("strategy_name", ["baseline", "all"])
def test_matrix_products_are_those_that_torch_counts(strategy_name):
    """Forward and backward, of two images; with `cpu`, all products but the matching's are torch's."""
    skip_without("cpu")
    architecture = SHAPES["narrow"]
    schedule = strategy(strategy_name, architecture.depth)
    model = model_of(architecture, schedule)
    images = torch.randn(2, 3, architecture.img_size, architecture.img_size)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    counted = cost(architecture, schedule, Recipe(), 7)
    per_image = counted.ends.both.gemm_flops + sum(layer.gemms.both.gemm_flops for layer in counted.layers)
    assert 2 * per_image == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_matching_s_products_are_those_that_torch_counts():
    architecture = SHAPES["narrow"]
    layer = cost(architecture, strategy("all", architecture.depth), Recipe(), 7).layers[0]
    with FlopCounterMode(display=False) as counter:
        match(torch.randn(1, layer.entering, architecture.embed_dim, dtype=torch.float64), r=7)  # torch's own
    assert layer.fusion.both.gemm_flops == counter.get_total_flops()


@pytest.mark.parametrize(("name", "settings"), METHOD_CASES, ids=map(label, METHOD_CASES))
def test_what_a_method_compares_is_what_torch_counts(name, settings):
    """Of one image: 33 tokens of 16 channels, the class token at the head, 9 to go."""
    method = made((name, settings))
    # the made-up tokens' widths: Δ of both directions has 32 channels, B and C have 4 each
    inside = settings.get("placement") == "inside"
    architecture = Architecture(embed_dim=8 if inside else 16, depth=1, expand=2 if inside else 1, d_state=4)
    seen = replace(tokens_seen(33, torch.zeros(1, dtype=torch.long), 0, torch.float64), r=9)
    with FlopCounterMode(display=False) as counter:
        method.reduce(seen)
    assert method.flops(33, 9, architecture) == counter.get_total_flops()
    if name in ("random_merge", "random_prune", "hsa"):
        assert not counter.get_total_flops()


SMALL = Architecture(embed_dim=16, depth=3, img_size=16, patch_size=4, d_state=4, cls_position="head")  # 17 tokens
PLACED = [
    *(("famba_v", at) for at in get_args(Placement)),
    ("random_prune", "inside"),
    ("random_prune", "after"),
    ("rmeeto", "input"),
]


def counted_by_torch(model, image):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops()


def products(flops, architecture, tokens):
    """Of `forward_flops`, what is no convolution or scan, which torch does not count; tokens: that the mixers see."""
    one = layer_cost(architecture, 1, 1)
    return flops - sum(tokens) * (one.conv.forward.other_flops + one.scan.forward.other_flops)


@pytest.mark.parametrize("schedule", [(0, 5, 3), (4,)], ids=str)
@pytest.mark.parametrize(("name", "placement"), PLACED)
def test_a_forward_pass_has_the_products_that_torch_counts(name, placement, schedule):
    """Wherever the tokens go: the last layer's comparisons too, and out_proj without what goes inside."""
    if schedule[0] and placement == "input":
        pytest.skip("there is no mixer before layer 0")
    architecture = SMALL.model_copy(update={"depth": len(schedule)})
    by = {"method": name, "placement": placement, "scan": "reference"}
    model = VisionMamba(**architecture.model_dump(), num_classes=7, fusion=schedule, **by).double().eval()
    flops = forward_flops(architecture, schedule, 7, model.method)
    found = counted_by_torch(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert products(flops, architecture, model.scheduled_tokens[:-1]) == found
    step = cost(architecture, schedule, Recipe(), 7, method=model.method)
    assert step.forward_per_image.gemm_flops == found
    assert [layer.tokens for layer in step.layers] == [*model.scheduled_tokens[:-1]]
    assert step.layers[-1].left == model.scheduled_tokens[-1]


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "placement"), [("famba_v", "before"), ("famba_v", "input"), ("rmeeto", "input")])
def test_a_threshold_compares_twice_where_tokens_go_and_once_where_none_does(name, placement, threshold):
    by = {"method": name, "placement": placement, "settings": {"threshold": threshold}, "scan": "reference"}
    torch.manual_seed(0)
    model = VisionMamba(**SMALL.model_dump(), num_classes=7, fusion=(0, 5, 3), **by).double().eval()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    tokens = model.lengths(image)[0].tolist()[:-1]
    assert threshold == 0.5 or tokens == ([17, 12, 9] if threshold == -1 else [17, 17, 17])
    flops = forward_flops(SMALL, (0, 5, 3), 7, model.method, left=tokens)
    assert products(flops, SMALL, tokens) == counted_by_torch(model, image)


def test_forward_flops_of_the_published_models():
    """A multiply-add is two: twice the multiply-adds that Vim's paper rounds to, by the same order of magnitude."""
    tiny, small = (
        forward_flops(ARCHITECTURES[name], strategy("baseline"), classes=100) for name in ("vim_tiny", "vim_small")
    )
    assert 2.5e9 < tiny < 4e9
    assert 3 < small / tiny < 4


def test_rows_of_an_older_count_are_counted_again():
    """In tables; the file keeps what was recorded. Only a late method's count has changed, and its own is not known."""
    own = {name: {"like": "upper", "method": name} for name in ("famba_v", "utr")}
    rows = {cell.strategy: make_row(cell) for cell in experiment(strategies=[*own], schedules=own).cells()}
    early, late = rows["famba_v"], rows["utr"]
    assert row_flops(early) == early.cost.forward_flops
    method = build("utr", {})
    assert row_flops(late) == forward_flops(late.cell.architecture, late.cell.schedule, late.data.classes, method)
    assert row_flops(late) != late.cost.forward_flops


def test_exponentials_are_the_states_and_a_few():
    architecture = ARCHITECTURES["vim_tiny"]
    layer = cost(architecture, strategy("baseline"), Recipe(), 100).layers[0]
    states = 2 * 384 * 16 * 197
    assert states < layer.scan.forward.exps < 1.1 * states
    assert layer.scan.backward.exps == layer.scan.forward.exps  # the states are rebuilt
    assert layer.norm.both.exps == layer.gemms.both.exps == 0


def test_half_the_width_of_the_numbers_halves_the_scan_s_traffic_and_nothing_else():
    architecture, schedule = ARCHITECTURES["vim_tiny"], strategy("upper")
    wide, narrow = (cost(architecture, schedule, Recipe(precision=p), 100).layers[0] for p in ("fp32", "bf16"))
    assert narrow.scan.both.moved == wide.scan.both.moved / 2
    assert narrow.scan.both.exps == wide.scan.both.exps
    assert narrow.gemms.both.gemm_flops == wide.gemms.both.gemm_flops


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_layer_s_work_follows_the_tokens_that_its_mixer_sees(name):
    architecture = ARCHITECTURES["vim_tiny"]
    schedule = strategy(name)
    layers = cost(architecture, schedule, Recipe(), 100).layers
    tokens = scheduled_tokens(architecture, schedule)
    assert tuple(layer.tokens for layer in layers) == tokens[:-1]
    assert [layer.fusion.both.moved > 0 for layer in layers] == [r > 0 for r in schedule]
    full = cost(architecture, strategy("baseline"), Recipe(), 100).layers[0]
    assert layers[-1].scan.both.exps * 197 == pytest.approx(full.scan.both.exps * tokens[-2])


def test_a_step_is_its_images_and_what_it_costs_in_any_case():
    cell = experiment().cells()[0]
    counted = step_cost(cell, 10)
    batches = {"global_batch": 2 * cell.recipe.global_batch}
    more = cell.model_copy(update={"recipe": cell.recipe.model_copy(update=batches)})
    twice = step_cost(more, 10)
    assert twice.layer_work == counted.layer_work * 2
    assert twice.update == counted.update
    assert counted.fixed_work.moved < twice.fixed_work.moved < 2 * counted.fixed_work.moved
    assert twice.peak_bytes == counted.peak_bytes  # micro-batches, one after the other
    assert counted.work == counted.layer_work + counted.fixed_work


def test_images_that_other_processes_make_cost_the_device_nothing():
    architecture, schedule = ARCHITECTURES["vim_tiny"], strategy("baseline")
    assert cost(architecture, schedule, Recipe(augmentation="timm"), 100).augmentation == Work()
    assert cost(architecture, schedule, Recipe(augmentation="tensor"), 100).augmentation.moved > 0


def test_the_triton_scan_keeps_a_state_for_as_many_steps_as_is_counted():
    assert scan.CHUNK == flops._TRITON_SCAN_STEPS
