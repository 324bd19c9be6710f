"""The token record of a model: what it says is what the matching has seen and done, pair by pair."""

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from famba import fusion
from famba.config import Experiment
from famba.errors import InputError
from famba.methods import Method, Reduction, Seen
from famba.model import VisionMamba
from famba.results.arrays import write_arrays
from famba.results.tokens import TokenRecord, read_tokens, write_tokens
from famba.similarity import EXAMPLES, MAPS, best_match, cosines, token_record
from famba.training.train import Training
from tests.helpers.cells import MICRO
from tests.helpers.cells import cell as micro_cell
from tests.helpers.rows import experiment, make_row

DEPTH, PATCHES = 8, 16  # a 4 x 4 grid


def model(strategy: str = "all", **settings: object) -> VisionMamba:
    torch.manual_seed(0)
    schedule = fusion.strategy(strategy, DEPTH, PATCHES + 1)
    made = VisionMamba(16, DEPTH, 10, img_size=16, patch_size=4, fusion=schedule, scan="reference", **settings)
    with torch.no_grad():  # at its start a model's layers hardly change a token
        for block in made.blocks:
            block.mixer.out_proj.weight.mul_(8)
    return made


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def watched(monkeypatch, of: VisionMamba, images: torch.Tensor):
    """The record, and the arguments and result of every matching of that forward pass."""
    calls = []

    def spy(metric, r, protected):
        calls.append((metric.detach().clone(), protected, fusion.match(metric, r, protected)))
        return calls[-1][2]

    monkeypatch.setattr("famba.methods.famba_v.match", spy)
    return token_record(of, images, nullcontext), calls


def first_patches(groups: list[set[int]], cls: int) -> dict[int, int]:
    """The first patch of each patch's group. Patches count without the class token."""
    patch = [token - (token > cls) for token in range(PATCHES + 1)]
    members = [[patch[token] for token in group if token != cls] for group in groups]
    return {member: min(group) for group in members for member in group}


def test_random_methods_are_recorded_as_they_are_evaluated(images):
    """A captured evaluation replays a graph, and leaves a model that trains as it was."""
    of = model(method="random_prune")
    trained, evaluated = token_record(of.train(), images, nullcontext), token_record(of.eval(), images, nullcontext)
    np.testing.assert_array_equal(trained.groups, evaluated.groups)


@pytest.mark.parametrize("cls_position", ["middle", "head"])
@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize("strategy", ["all", "interleaved", "upper"])
def test_groups_are_what_the_model_fused(monkeypatch, images, strategy, order, cls_position):
    of = model(strategy, order=order, cls_position=cls_position)
    record, calls = watched(monkeypatch, of, images)
    for image in range(EXAMPLES):
        sequence = [{token} for token in range(PATCHES + 1)]  # sets of input tokens, in the order they stand
        fusions = iter(calls)
        for layer, r in enumerate(of.schedule):
            if r:
                _, _, pairs = next(fusions)
                for source, target in zip(pairs.source[image].tolist(), pairs.target[image].tolist(), strict=True):
                    sequence[target] |= sequence[source]
                places = pairs.kept if order == "sequence" else pairs.tome
                sequence = [sequence[place] for place in places[image].tolist()]
            expected = first_patches(sequence, of.cls_index)
            assert dict(enumerate(record.groups[image, layer].tolist())) == expected
            assert record.tokens(image, layer) == len(sequence) == of.scheduled_tokens[layer]


class FuseNeighbours(Method):
    """Another rule: of each pair of neighbours before the class token, the first joins the second; order reversed."""

    needs_history = False

    def reduce(self, seen: Seen) -> Reduction:
        batch, tokens = seen.hidden.shape[:2]
        kept = torch.tensor([token for token in reversed(range(tokens)) if token not in (0, 2)])
        pairs = torch.tensor([[0, 2], [1, 3]]).expand(batch, 2, 2)
        return Reduction(kept.expand(batch, -1), pairs[:, 0], pairs[:, 1], tokens, seen.cls)


def test_another_merging_rule_is_recorded_as_it_was_done(images):
    """The record is of what the block has done, not of what `match` would do."""
    of = model("baseline")
    of.blocks[2].r, of.blocks[2].method = 2, FuseNeighbours()
    record = token_record(of, images, nullcontext)
    for image in range(EXAMPLES):
        for layer in range(DEPTH):
            first = list(range(PATCHES))
            if layer >= 2:
                first[1], first[3] = 0, 2
            assert record.groups[image, layer].tolist() == first
            assert record.tokens(image, layer) == PATCHES + 1 - 2 * (layer >= 2)
    last = record.similarity[-1]
    assert last[0, 1] == pytest.approx(1, abs=1e-5)
    assert last[0, 2] < 0.9999


def test_best_match_is_that_of_the_vectors_that_are_matched(monkeypatch, images):
    record, calls = watched(monkeypatch, model("all"), images)
    assert len(calls) == DEPTH
    for layer, (metric, protected, _) in enumerate(calls):
        of_image = []
        for image, tokens in enumerate(metric):
            cls = protected if isinstance(protected, int) else int(protected[image])
            places = [place for place in range(len(tokens)) if place != cls]
            best = [
                max(float(torch.cosine_similarity(tokens[i], tokens[j], dim=0)) for j in places if j % 2)
                for i in places if i % 2 == 0
            ]  # fmt: skip
            of_image.append(sum(best) / len(best))
        assert record.best_match[layer] == pytest.approx(sum(of_image) / len(of_image), abs=1e-5)


@pytest.mark.parametrize("cls", [0, 3, 4])
def test_the_strongest_links_are_those_that_are_fused(cls):
    metric = torch.randn(5, 9, 8, generator=torch.Generator().manual_seed(2))
    cosine = cosines(metric)
    pairs = fusion.match(metric, 3, protected=cls)
    fused = cosine[torch.arange(5)[:, None], pairs.source, pairs.target]  # (5, 3), strongest first
    links = cosine.clone()
    links[:, :, cls] = links[:, cls] = -2
    strength = links[:, ::2, 1::2].amax(2)  # (5, 5)
    assert torch.allclose(fused, strength.sort(dim=1, descending=True).values[:, :3])
    there = strength > -2
    mean = (strength * there).sum(1) / there.sum(1)
    assert torch.allclose(best_match(cosine, torch.full((5,), cls)), mean, atol=1e-6)


def test_without_a_partner_there_is_no_best_match():
    for tokens, cls in ((1, 0), (2, 0), (2, 1), (3, 1)):
        assert best_match(torch.ones(1, tokens, tokens), torch.tensor([cls])).isnan().all()


def test_maps_are_the_similarity_of_patches(monkeypatch, images):
    of = model("baseline")
    hidden = []
    of.blocks[0].norm.register_forward_hook(lambda _, __, out: hidden.append(out[0].detach()))
    record = token_record(of, images, nullcontext)
    assert record.layers.tolist() == [0, 1, 3, 4, 6, 7]
    assert len(record.layers) == MAPS
    patches = torch.cat([hidden[0][:, : of.cls_index], hidden[0][:, of.cls_index + 1 :]], dim=1)
    for i, j in ((0, 15), (3, 7), (8, 9), (5, 5)):
        expected = torch.cosine_similarity(patches[:, i], patches[:, j], dim=1).mean()
        assert record.similarity[0, i, j] == pytest.approx(float(expected), abs=1e-5)
        assert record.similarity[0, j, i] == record.similarity[0, i, j]


@pytest.mark.parametrize("method", ["famba_v", "random_prune"])
def test_many_tokens_are_compared_in_groups_of_images(monkeypatch, images, method):
    """So that the cosines of 64 images never stand side by side."""
    whole = token_record(model("upper", method=method), images, nullcontext)
    largest = []
    monkeypatch.setattr("famba.similarity.PAIRS_AT_ONCE", 4 * 17**2 + 1)
    monkeypatch.setattr("famba.similarity.cosines", lambda metric: (largest.append(len(metric)), cosines(metric))[1])
    parts = token_record(model("upper", method=method), images, nullcontext)
    assert largest[:2] == [4, 2]
    np.testing.assert_allclose(parts.similarity, whole.similarity, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(parts.best_match, whole.best_match, rtol=1e-6)
    assert np.array_equal(parts.groups, whole.groups)


def test_patches_of_a_group_are_equal_in_later_maps(images):
    record = token_record(model("all"), images[:1], nullcontext)
    last = record.similarity[-1]  # layer 7, before it fuses: groups as layer 6 has left them
    same = record.groups[0, 6][:, None] == record.groups[0, 6][None]
    assert same.sum() > PATCHES
    assert np.allclose(last[same], 1, atol=1e-5)
    assert (last[~same] < 0.9999).all()


def test_watching_changes_nothing(images):
    of = model("upper")
    with torch.no_grad():
        before = of(images)
        token_record(of, images, nullcontext)
        assert torch.equal(of(images), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in of.modules())


def test_examples_are_the_images_made_smaller():
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    pictures = torch.zeros(2, 3, 128, 128)
    pictures[1] = white[:, None, None]
    wide = VisionMamba(8, 1, 10, img_size=128, patch_size=64, scan="reference")
    pixels = token_record(wide, pictures, nullcontext).images
    assert pixels.shape == (2, 64, 64, 3)
    assert (pixels[1] == 255).all()
    assert pixels[0, 0, 0].tolist() == [124, 116, 104]  # the mean colour, 0 after normalisation


def test_a_training_leaves_the_record_of_its_row(tmp_path):
    row = Training(micro_cell(epochs=1), tmp_path, Path("data")).run()
    record = read_tokens(tmp_path / "tokens.npz", row)
    assert record.seen == 64
    assert [record.tokens(0, layer) for layer in range(4)] == list(row.tokens.measured[:-1])
    assert all(0 < value <= 1 for value in record.best_match)


@pytest.fixture(scope="module")
def paper_record() -> TokenRecord:
    """Of the paper's size, and of noise: no real record is larger."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.3, 1, (MAPS, 196, 196)).astype(np.float32)
    maps = np.minimum(noise, noise.transpose(0, 2, 1))
    maps[:, range(196), range(196)] = 1
    groups = np.tile(np.arange(196, dtype=np.uint16), (EXAMPLES, 24, 1))
    pixels = rng.integers(0, 256, (EXAMPLES, 56, 56, 3), dtype=np.uint8)
    return TokenRecord(rng.uniform(0.5, 1, 24), np.array([0, 5, 9, 14, 18, 23]), maps, pixels, groups, 64)


@pytest.fixture(scope="module")
def paper_row():
    grid = experiment(models={"m": {"embed_dim": 32}}, fusion={"budget": "paper"})
    return make_row(grid.cell("m", "baseline", 0))


def test_a_record_is_read_as_it_was_written(tmp_path, paper_record, paper_row):
    path = tmp_path / "tokens.npz"
    write_tokens(paper_record, path)
    assert path.stat().st_size < 160_000
    read = read_tokens(path, paper_row)
    step = (1 - float(paper_record.similarity.min())) / 255
    assert np.abs(read.similarity - paper_record.similarity).max() <= step / 2 + 1e-6
    assert np.allclose(read.best_match, paper_record.best_match)
    for name in ("layers", "images", "groups", "seen"):
        assert np.array_equal(getattr(read, name), getattr(paper_record, name))
    again = tmp_path / "again.npz"
    write_tokens(paper_record, again)
    assert again.read_bytes() == path.read_bytes()


def test_a_model_that_ends_with_three_tokens_has_a_record_that_can_be_read(tmp_path):
    """Of the middle one of three, the class token, nothing is compared."""
    models = {"micro": MICRO["models"]["vim_micro"] | {"depth": 2, "patch_size": 8}}
    own = {"schedules": {"mine": {"layers": [0], "r": 2}}, "strategies": ["mine"]}
    grid = Experiment.from_config({**MICRO, **own, "models": models, "recipe": MICRO["recipe"] | {"epochs": 1}})
    row = Training(grid.cell("micro", "mine", 0), tmp_path, Path("data")).run()
    assert row.tokens.measured == (3, 3, 3)
    first, last = read_tokens(tmp_path / "tokens.npz", row).best_match
    assert 0 < first <= 1
    assert math.isnan(last)


def test_maps_that_are_all_one_survive(tmp_path, paper_record, paper_row):
    ones = np.ones_like(paper_record.similarity)
    same = TokenRecord(*(ones if name == "similarity" else value for name, value in vars(paper_record).items()))
    write_tokens(same, tmp_path / "tokens.npz")
    assert (read_tokens(tmp_path / "tokens.npz", paper_row).similarity == 1).all()


def spoilt(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "text":
        path.write_text("no archive")
    elif how == "no groups":
        with np.load(path) as file:
            kept = {name: file[name] for name in file if name != "groups"}
        write_arrays(path, **kept)
    elif how == "pickle":
        np.savez(path, best_match=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "No such file"),
        ("cut", "no checksum at its end"),
        ("text", "no checksum at its end"),
        ("pickle", "no checksum at its end"),
        ("no groups", "groups"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, paper_record, paper_row, how, says):
    path = tmp_path / "tokens.npz"
    write_tokens(paper_record, path)
    spoilt(path, how)
    with pytest.raises(InputError, match=says) as caught:
        read_tokens(path, paper_row)
    assert str(path) in str(caught.value)
    assert "train the cell again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_cell_is_refused(tmp_path, paper_record):
    path = tmp_path / "tokens.npz"
    write_tokens(paper_record, path)
    grid = experiment(models={"m": {"embed_dim": 32}}, fusion={"budget": "paper"})
    with pytest.raises(InputError, match="tokens per layer"):
        read_tokens(path, make_row(grid.cell("m", "upper", 0)))
    with pytest.raises(InputError, match="12 layers and 64 patches"):
        read_tokens(path, make_row(experiment().cell("vim_tiny_mini", "baseline", 0)))


def test_best_match_of_equal_tokens_is_one():
    assert math.isclose(float(best_match(cosines(torch.ones(1, 5, 4)), torch.tensor([2]))), 1, abs_tol=1e-6)


def test_the_class_token_is_left_out_where_a_method_at_the_input_has_moved_it(images: torch.Tensor) -> None:
    """R-MeeTo moves it before the norm, whose output is compared."""
    torch.manual_seed(0)
    of = VisionMamba(16, 4, 10, img_size=16, patch_size=4, method="rmeeto", fusion=(0, 4, 3, 2), scan="reference")
    normed, after = [], [torch.full((6,), 8)]
    for block in of.blocks:
        block.norm.register_forward_hook(lambda _, __, made: normed.append(made[0]))
        if block.method is not None:
            block.method.register_forward_hook(lambda _, __, made: after.append(made[2].cls_after))
    record = token_record(of, images, nullcontext)
    moved = [best_match(cosines(x), cls).mean().item() for x, cls in zip(normed, after, strict=True)]
    assert record.best_match.tolist() == moved
    stale = [best_match(cosines(x), cls).mean().item() for x, cls in zip(normed[1:], after, strict=False)]
    assert moved[1:] != stale
