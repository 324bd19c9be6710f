"""The search for schedules: against trying out all of them, and its costs against the cost model's."""

import itertools
from functools import partial
from operator import attrgetter
from typing import get_args

import numpy as np
import pytest
import torch

from famba.config import Architecture
from famba.config.datasets import DATASETS
from famba.config.methods import Placement
from famba.cost import damage
from famba.cost.bench import cell_of
from famba.cost.calibrate import Calibration
from famba.cost.roofline import Rates
from famba.cost.search import CostModel, Front, summed
from famba.flops import forward_flops, layer_cost, layer_flops, step_cost
from famba.methods.names import build
from famba.strategies import capped, strategy

TOY = Architecture(embed_dim=16, depth=4, img_size=12, patch_size=4)  # 10 tokens
SCHEDULES = [(0, 0, 0, 0), (4, 2, 1, 0), (0, 3, 0, 2), (1, 1, 1, 1), (0, 0, 0, 4)]


def every_schedule(depth: int, tokens: int):
    for schedule in itertools.product(range(tokens), repeat=depth):
        left = tokens
        for gone in schedule:
            if gone > capped(gone, left, True, None):
                break
            left -= gone
        else:
            yield schedule


def random_tables(seed: int, depth: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs are whole numbers, so that nothing is rounded; both are of no particular form."""
    draws = np.random.default_rng(seed)
    shape = (depth, tokens + 1, tokens + 1)
    costs, damages = draws.integers(0, 30, shape).astype(float), draws.random(shape)
    for entering in range(tokens + 1):
        allowed = [entering - gone for gone in range(capped(entering, entering, True, None) + 1)] if entering else []
        forbidden = np.setdiff1d(np.arange(tokens + 1), allowed)
        costs[:, entering, forbidden] = np.inf
        damages[:, entering, forbidden] = np.inf
    return costs, damages


@pytest.mark.parametrize(("seed", "depth", "tokens"), [(0, 3, 8), (1, 4, 7), (2, 2, 12), (3, 5, 6)])
def test_no_schedule_is_better_than_the_one_that_is_found(seed, depth, tokens):
    costs, damages = random_tables(seed, depth, tokens)
    front = Front(costs, damages, unit=1, limit=30 * depth)
    tried = [(summed(costs, s), summed(damages, s)) for s in every_schedule(depth, tokens)]
    for budget in range(0, 30 * depth, 3):
        best = min((value for cost, value in tried if cost <= budget), default=None)
        found = front.at_cost(budget)
        assert (found is None) == (best is None)
        if found is not None:
            assert summed(costs, found) <= budget
            assert summed(damages, found) == pytest.approx(best)
    for most in (0.3, 0.8, 1.5, depth):
        cheapest = min((cost for cost, value in tried if value <= most), default=None)
        found = front.at_damage(most)
        assert (found is None) == (cheapest is None)
        if found is not None:
            assert summed(damages, found) <= most
            assert summed(costs, found) == cheapest
    dominant = [p for p in tried if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in tried)]
    assert front.points == [(pytest.approx(cost), pytest.approx(value)) for cost, value in sorted(set(dominant))]


def test_rounded_costs_keep_the_budget():
    costs, damages = random_tables(4, 3, 8)
    costs *= np.pi / 3
    front = Front(costs, damages, unit=1.7, limit=100)
    for budget in (20, 40, 60.5):
        assert summed(costs, front.at_cost(budget)) <= budget


def test_of_equal_damage_the_schedule_that_removes_least_is_found():
    costs = np.zeros((2, 10, 10))
    damages = np.zeros_like(costs)
    damages[:, np.triu_indices(10, 1)[0], np.triu_indices(10, 1)[1]] = np.inf  # tokens do not come back
    assert Front(costs, damages, unit=1, limit=1).at_cost(1) == (0, 0)


@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_cost_of_a_schedule_is_the_cost_models(schedule, placement):
    whole, method = forward_flops(TOY, (0, 0, 0, 0), 10), build("famba_v", {}, placement)
    model = CostModel(TOY, layer_flops, partial(layer_cost, TOY, method=method), whole)
    assert model.of(schedule) == pytest.approx(forward_flops(TOY, schedule, 10, method), abs=1)
    assert model.of((0, 0, 0, 0)) == pytest.approx(whole)


@pytest.mark.parametrize("units", [7, 10, 4000])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_the_unreduced_model_is_one_of_the_schedules(units, placement):
    whole = forward_flops(TOY, (0, 0, 0, 0), 10)
    model = CostModel(TOY, layer_flops, partial(layer_cost, TOY, placement=placement), whole)
    front = model.front(damage.tables([{1: 0.1, 2: 0.2, 4: 0.9}] * 4, 10), units)
    assert front.at_damage(0) == (0, 0, 0, 0)
    assert front.points[-1] == (pytest.approx(whole - model.fixed), 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_predicted_step_and_the_saved_memory_are_sums_over_layers_too(schedule):
    rates = Rates("toy", "made up", 3e9, 5e8, 7e8)
    found = Calibration(rates, 1.3, 2e-5, 1.9, 1.1, 1.2, None)
    counted = step_cost(cell_of(TOY, schedule, 4), 100)
    none = step_cost(cell_of(TOY, (0,) * 4, 4), 100)
    seconds = CostModel(TOY, lambda layer: found.layer_s(layer, 4, 1), partial(layer_cost, TOY), found.step_s(none))
    assert seconds.of(schedule) == pytest.approx(found.step_s(counted))
    saved = CostModel(TOY, attrgetter("saved"), partial(layer_cost, TOY), none.saved_per_image)
    once = 8 * any(schedule)  # the class token's index, which no layer has
    assert saved.of(schedule) + once == pytest.approx(counted.saved_per_image)


def test_damage_of_one_layer_is_what_was_measured_and_goes_on_beyond():
    curve = {1: 0.01, 2: 0.03, 4: 0.12}
    total = damage.cumulated(curve, 10)
    assert total[[0, 1, 2, 4]] == pytest.approx([0, 0.01, 0.03, 0.12])
    assert total[3] == pytest.approx(0.075)
    assert total[8] == pytest.approx(0.48)  # doubled tokens, four times the damage, once more
    assert (np.diff(damage.cumulated({1: 0.02, 2: 0.01, 4: 0.012}, 10)) >= 0).all()


def test_damages_of_the_layers_add_up_over_the_tokens_that_are_gone():
    curves = [{1: 0.01, 2: 0.03, 4: 0.12}, None, {1: 0.001, 2: 0.004, 4: 0.016}]
    tables = damage.tables(curves, 10)
    assert summed(tables, (4, 0, 0)) == pytest.approx(0.12)
    assert summed(tables, (0, 0, 2)) == pytest.approx(0.004)
    assert summed(tables, (4, 0, 2)) == pytest.approx(0.12 + damage.cumulated(curves[2], 10)[[4, 6]] @ [-1, 1])
    assert np.isinf(tables[1, 10, 9])  # where the method cannot act
    assert np.isinf(tables[0, 10, 5])  # more than half


def test_divergence_is_zero_of_the_same_output_and_known_of_two_classes():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    known = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert damage.divergence(q.log(), p.log()) == pytest.approx(known)
    assert damage.divergence(p.log() + 7, p.log()) == 0
    assert damage.points_per_damage([0.1, 0.2], [2.0, 4.0]) == pytest.approx(20)
    assert damage.points_per_damage([0.0], [0.0]) == 0


def test_a_whole_search_is_as_fast_as_the_papers_model_needs():
    """24 layers and 197 tokens: it ends, keeps each budget, and is no worse than the paper's schedules."""
    shape = Architecture(embed_dim=192)
    curves = [{gone: (24 - layer) * gone**1.5 * 1e-5 for gone in damage.removals(197)} for layer in range(24)]
    tables = damage.tables(curves, 197)
    whole = forward_flops(shape, (0,) * 24, DATASETS["cifar100"].classes)
    model = CostModel(shape, layer_flops, partial(layer_cost, shape), whole)
    front = model.front(tables, units=300)
    for name in ("all", "upper"):
        cost = model.of(strategy(name))
        found = front.at_cost(cost - model.fixed)
        assert model.of(found) <= cost
        assert summed(tables, found) < summed(tables, strategy(name))
