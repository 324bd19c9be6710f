"""Weights from anywhere: what is taken, dropped, moved and resized; no code in a file is run."""

import argparse
import math
import os
from pathlib import Path

import pytest
import torch

import famba
from famba.errors import InputError
from famba.training import weights
from famba.training.train import Training
from tests.helpers.cells import cell

SIZES = {"embed_dim": 16, "depth": 2, "img_size": 16, "patch_size": 4}  # a grid of 4 x 4
OFFICIAL = argparse.Namespace(
    model="vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstoken_div2", lr=5e-4, gpu=0
)


def model(classes: int = 10, **changes: object) -> famba.VisionMamba:
    torch.manual_seed(0)
    return famba.VisionMamba(**{**SIZES, **changes}, num_classes=classes)


def official(path: Path, classes: int = 1000, args: argparse.Namespace = OFFICIAL, **changes: object) -> dict:
    """A file in the layout of Vim's, under DistributedDataParallel; returns its weights by name."""
    state = {name: torch.randn_like(value) for name, value in model(classes, **changes).state_dict().items()}
    whole = {"model": {f"module.{name}": value for name, value in state.items()}, "args": args, "epoch": 299}
    torch.save(whole, path)
    return state


def test_an_official_file_of_other_classes_and_another_resolution(tmp_path):
    state = official(tmp_path / "vim.pth", img_size=24)  # 6 x 6 patches, the class token at 18 of 37
    own = model(cls_position="head")
    head = own.head.weight.clone()
    fitted = weights.fit(weights.read(tmp_path / "vim.pth"), own)
    loaded = own.state_dict()
    assert fitted.new_head
    assert fitted.notes[1:] == (
        f"prefix 'module.' taken off {len(state)} names",
        "dropped: args, epoch",
        "head of 1000 classes: dropped; the model's, of 10, is new",
        "class token: moved from position 18, in the middle, to 0, at the head",
        "pos_embed: 6 x 6 patches resized to 4 x 4, bicubically, around the class token",
    )
    assert fitted.notes[0].startswith(f"taken: {len(state) - 2} tensors of ")
    assert torch.equal(loaded["head.weight"], head)
    assert all(
        torch.equal(loaded[name], value)
        for name, value in state.items()
        if name != "pos_embed" and not name.startswith("head.")
    )
    assert torch.equal(loaded["pos_embed"][:, 0], state["pos_embed"][:, 18])


def cubic(places: int, out: int) -> torch.Tensor:
    """(out, places): one axis of bicubic interpolation, from Keys' kernel with a = -3/4, edges repeated."""
    matrix = torch.zeros(out, places)
    for i in range(out):
        at = (i + 0.5) * places / out - 0.5
        for neighbour in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - neighbour)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[i, min(max(neighbour, 0), places - 1)] += near if d <= 1 else far
    return matrix


@pytest.mark.parametrize("large", [7, 16])
def test_position_embeddings_are_interpolated_bicubically_around_the_class_token(tmp_path, large):
    state = official(tmp_path / "vim.pth", classes=10, img_size=32)  # 8 x 8 patches, the class token at 32 of 65
    own = model(img_size=4 * large)
    weights.fit(weights.read(tmp_path / "vim.pth"), own)
    at = large**2 // 2
    found, given = own.pos_embed.detach()[0], state["pos_embed"][0]
    assert torch.equal(found[at], given[32])
    grid, known = (
        torch.cat([e[:k], e[k + 1 :]]).unflatten(0, (n, n)) for e, k, n in ((found, at, large), (given, 32, 8))
    )
    axis = cubic(8, large)
    torch.testing.assert_close(grid, torch.einsum("ir,jc,rcd->ijd", axis, axis, known))


@pytest.mark.parametrize(("then", "now"), [("middle", "head"), ("head", "middle")])
def test_the_class_token_moves_and_every_patch_keeps_its_embedding(tmp_path, then, now):
    source, own = model(cls_position=then), model(cls_position=now)
    torch.save(source.state_dict(), tmp_path / "bare.pt")
    fitted = weights.fit(weights.read(tmp_path / "bare.pt"), own, cls_position=then)
    for each in (source, own):
        each.embedding = each.pos_embed[0].tolist()
        each.token = each.embedding.pop(each.cls_index)
    assert own.embedding == source.embedding
    assert own.token == source.token
    assert f"class token: moved from position {source.cls_index}" in " ".join(fitted.notes)
    assert not fitted.new_head


def test_a_file_that_does_not_say_where_its_class_token_is_is_taken_at_its_word(tmp_path):
    torch.save(model().state_dict(), tmp_path / "bare.pt")
    fitted = weights.fit(weights.read(tmp_path / "bare.pt"), model())
    assert (
        "class token: taken to be at position 8, in the middle, as in the model: the file does not say" in fitted.notes
    )


def test_raw_weights_or_their_moving_average(tmp_path):
    raw, average = model().state_dict(), {name: value + 1 for name, value in model().state_dict().items()}
    for key in ("ema", "model_ema"):
        torch.save({"model": raw, key: average}, tmp_path / "both.pt")
        own = model()
        weights.fit(weights.read(tmp_path / "both.pt", "ema"), own)
        assert torch.equal(own.norm_f.weight, average["norm_f.weight"])
    torch.save({"model": raw}, tmp_path / "one.pt")
    with pytest.raises(InputError, match="has no moving average"):
        weights.read(tmp_path / "one.pt", "ema")


def test_half_precision_is_widened(tmp_path):
    torch.save({name: value.bfloat16() for name, value in model().state_dict().items()}, tmp_path / "half.pt")
    own = model()
    weights.fit(weights.read(tmp_path / "half.pt"), own)
    assert own.norm_f.weight.dtype == torch.float32


class _Runs:
    """What a hostile file would hold."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"model": {}, "args": argparse.Namespace(output=Path("x"))}, "holds a pathlib.*Path, and to read that"),
        ({"model": {}, "args": _Runs()}, "could run code; save its state dict by itself"),
        ({"model": {}}, "has no weights: it is empty"),
        ([1, 2], "holds a list, and no weights"),
        ({"epoch": 3}, "has no weights: 'epoch' is no tensor of floating-point numbers"),
        ({"model": model(depth=3).state_dict()}, "weights of 3 layers, and the model has 2"),
        (
            {"model": model(patch_size=8).state_dict()},
            r"patch_embed.proj.weight is of shape \[16, 3, 8, 8\], the model needs \[16, 3, 4, 4\]",
        ),
        (
            {"model": model().state_dict() | {"pos_embed": torch.zeros(1, 16, 16)}},
            r"pos_embed is of shape \[1, 16, 16\]: no square grid",
        ),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_the_model_is_one_line(tmp_path, monkeypatch, held, message):
    monkeypatch.chdir(tmp_path)
    torch.save(held, "file.pt")
    with pytest.raises(InputError, match=message) as error:
        weights.fit(weights.read(Path("file.pt")), model())
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_a_cell_starts_from_the_checkpoint_of_its_recipe(tmp_path):
    """Of other classes: the head is the seed's. What it came from is in the row."""
    source = Training(cell(), tmp_path / "seed", Path("data")).model
    state = {name: value + 0.01 for name, value in source.state_dict().items()}
    state |= {"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "other.pt")
    fine = cell(epochs=1, init=str(tmp_path / "other.pt"))
    training = Training(fine, tmp_path / "fine", Path("data"))
    start = training.model.state_dict()
    assert torch.equal(start["head.weight"], source.head.weight)
    assert all(torch.equal(start[name], value) for name, value in state.items() if not name.startswith("head."))
    row = training.run()
    assert (row.init.weights, row.cell.recipe.init) == ("other.pt", str(tmp_path / "other.pt"))
    assert '"init":null' not in cell().model_dump_json()
    with pytest.raises(InputError, match="leave one of the two out"):
        Training(fine, tmp_path / "twice", Path("data"), init=tmp_path / "other.pt")
