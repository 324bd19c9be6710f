"""The random numbers: splitmix64 by Python's integers, uniform, and anew where they must be."""

from itertools import pairwise

import pytest
import torch

from famba.methods import draws
from famba.methods.random_controls import RandomMerge, RandomPrune
from famba.model import VisionMamba
from tests.helpers.method_cases import tokens_seen

WORD = 1 << 64


def splitmix64(key: int, counter: int) -> float:
    """The counter-th number of the sequence that begins at `key`, its upper 24 bits as a fraction."""
    x = (counter * 0x9E3779B97F4A7C15 + key) % WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return ((x ^ (x >> 31)) >> 40) / 2**24


def test_draws_are_splitmix64() -> None:
    keys = [0, 1, -1, 20260, -(2**63), 2**63 - 1]
    for stream in (0, 3, 256 * 23 + 128):
        found = draws.uniform(torch.tensor(keys), stream, 5)
        assert found.dtype == torch.float32
        assert found.tolist() == [[splitmix64(key, (stream << 40) + t) for t in range(5)] for key in keys]
    for key in keys:  # of a batch: places of one sequence that are 2^20 apart
        found = draws.uniform(draws.by_place(torch.tensor(key), 3), 7, 5)
        assert found.tolist() == [[splitmix64(key, (7 << 40) + (b << 20) + t) for t in range(5)] for b in range(3)]


def test_draws_are_uniform() -> None:
    """Mean, and chi-square over 64 bins, which is above 120 in one of 50,000 samples; keys and streams side by side."""
    samples = [
        draws.uniform(draws.by_place(torch.tensor(key), 64), stream, 196)
        for key, stream in ((0, 0), (1, 0), (7, 256), (-5, 99))
    ]
    samples.append(draws.uniform(torch.arange(4096), 0, 1))
    samples.append(torch.stack([draws.uniform(torch.tensor([3]), stream, 1) for stream in range(4096)]))
    samples.append(draws.uniform(draws.by_pixels(torch.rand(64, 3, 8, 8)), 5, 196))
    for sample in samples:
        values = sample.flatten().double()
        assert values.min() >= 0
        assert values.max() < 1
        assert abs(values.mean() - 0.5) < 4 / (12 * len(values)) ** 0.5
        counts = torch.histc(values, 64, 0, 1)
        even = len(values) / 64
        assert ((counts - even) ** 2 / even).sum() < 120
    for a, b in pairwise(samples):
        pair = torch.stack([a.flatten()[:4096], b.flatten()[:4096]])
        assert abs(torch.corrcoef(pair)[0, 1]) < 0.07  # 4.5 standard deviations


@pytest.mark.parametrize("key", [0, 9, 2**63 - 1, -(2**63)])
def test_the_next_micro_batch_goes_on_where_the_last_has_ended(key: int) -> None:
    whole = draws.by_place(torch.tensor(key), 7)
    second = draws.later(key, 3)
    assert torch.equal(draws.by_place(torch.tensor(second), 2), whole[3:5])
    assert torch.equal(draws.by_place(torch.tensor(draws.later(second, 2)), 2), whole[5:])


def test_the_same_image_draws_the_same_in_a_smaller_batch() -> None:
    whole = draws.uniform(draws.by_place(torch.tensor(9), 8), 5, 17)
    assert torch.equal(draws.uniform(draws.by_place(torch.tensor(9), 3), 5, 17), whole[:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_an_image_is_evaluated_alike_at_any_place_of_any_batch(dtype: torch.dtype) -> None:
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    keys = draws.by_pixels(images)
    assert keys.dtype == torch.int64
    assert len(set(keys.tolist())) == 5
    for image in range(5):
        assert draws.by_pixels(images[image:]).tolist() == keys[image:].tolist()
    if dtype == torch.float32:
        model = VisionMamba(16, 2, 4, 32, 4, method="random_merge", fusion=(8, 8)).eval()
        whole = drawn_by(model, images)
        alone = drawn_by(model, images[3:4])
        assert all(torch.equal(a[3:4], b) for a, b in zip(whole, alone, strict=True))
        assert not torch.equal(whole[0][2], whole[0][3])


def drawn_by(model: VisionMamba, images: torch.Tensor) -> list[torch.Tensor]:
    """Which tokens each reducing layer has kept."""
    kept: list[torch.Tensor] = []
    handles = [
        block.method.register_forward_hook(lambda _, __, made: kept.append(made[2].kept))
        for block in model.blocks
        if block.method is not None
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return kept


def test_draws_differ_between_layers_calls_steps_and_images() -> None:
    model = VisionMamba(16, 3, 4, 32, 4, method="random_prune", fusion=(8, 8, 8)).train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = drawn_by(model, images), drawn_by(model, images)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not torch.equal(kept[0], kept[1]) for kept in first)
    model.key.fill_(1)
    other = drawn_by(model, images)
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0][:, :40], first[1][:, :40])
    model.eval()
    evaluated = drawn_by(model, images)
    model.key.fill_(2)  # a training's key does not reach an evaluation
    assert all(torch.equal(a, b) for a, b in zip(evaluated, drawn_by(model, images), strict=True))
    seen = tokens_seen(17, torch.tensor([0, 8]), 3, torch.float32)
    assert not torch.equal(seen.uniform(), seen.uniform())


def test_both_directions_inside_the_mixer_draw_for_themselves() -> None:
    model = VisionMamba(16, 1, 4, 32, 4, cls_position="head", method="random_prune", placement="inside", fusion=(20,))
    forward, backward = drawn_by(model, torch.zeros(1, 3, 32, 32))
    assert not torch.equal(forward, backward)


def test_every_patch_is_as_likely_to_go_and_to_be_joined() -> None:
    """Chi-square over patches, 5 of 16 in each of 4,000 sequences, the class token in the middle."""
    batch, tokens, r, cls = 4000, 17, 5, 8
    seen = tokens_seen(tokens, torch.full((batch,), cls), 0, torch.float32)
    patches = [token for token in range(tokens) if token != cls]
    for method, each in ((RandomPrune(), 16), (RandomMerge(), 8)):
        reduction = method.reduce(type(seen)(**(vars(seen) | {"r": r})))
        gone = torch.ones(batch, tokens).scatter(1, reduction.kept, 0).sum(dim=0)
        assert gone.sum() == batch * r
        assert gone[cls] == 0
        even = batch * r / each
        among = gone[patches] if each == 16 else gone[patches[::2]]
        # sampled without replacement, each count scatters less than a multinomial's
        assert ((among - even) ** 2 / even).sum() < 3 * each
        if each == 8:
            joined = torch.zeros(tokens).scatter_add(0, reduction.target.flatten(), torch.ones(batch * r))
            assert joined[patches[::2]].sum() == joined[cls] == 0
            assert ((joined[patches[1::2]] - even) ** 2 / even).sum() < 3 * each


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_a_compiled_model_draws_by_its_key_too() -> None:
    model = VisionMamba(16, 1, 4, 32, 8, method="random_prune", fusion=(4,), scan="reference").train()
    compiled, images = torch.compile(model, backend="eager"), torch.randn(2, 3, 32, 32)
    logits = []
    for key in (0, 1):
        model.key.fill_(key)
        logits.append(compiled(images))
        torch.testing.assert_close(logits[-1], model(images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*logits)
