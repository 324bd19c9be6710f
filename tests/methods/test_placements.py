"""Where a method acts in a block: token traces, the block by hand, gradients of every parameter, who reads what."""

import contextlib

import pytest
import torch
from torch import Tensor

from famba.errors import InputError
from famba.methods import Method
from famba.methods.interface import Tokens
from famba.model import Block, VisionMamba
from famba.training.activations import saved_activation_bytes
from famba.training.checks import check_reduction, measured_tokens
from tests.helpers.method_cases import METHOD_CASES, Case, label, made, own_settings

SCHEDULES = [(0, 9, 30, 5, 0, 1), (0, 1000, 1, 0, 0, 0), (0, 0, 0, 0, 0, 64), (7, 7, 7, 7, 7, 7)]
PLACEMENTS = ["input", "before", "inside", "after"]


def vim(case: Case, cls_position: str = "middle", fusion: tuple[int, ...] = SCHEDULES[0], **sizes: int) -> VisionMamba:
    torch.manual_seed(0)
    name, settings = case
    return VisionMamba(
        **({"embed_dim": 16, "img_size": 32, "patch_size": 4} | sizes),
        depth=len(fusion),
        num_classes=5,
        cls_position=cls_position,
        method=name,
        settings=own_settings(settings),
        placement=settings.get("placement"),
        fusion=fusion,
    )


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def positions(case: Case) -> list[str]:
    return ["head"] if case[1].get("placement") == "inside" else ["head", "middle"]


def reads_before(case: Case) -> bool:
    method = made(case)
    return method.placement == "input" or (method.placement == "before" and method.needs_scanned)


@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_the_tokens_are_those_of_the_schedule(case: Case) -> None:
    cpu = torch.device("cpu")
    for cls_position in positions(case):
        for fusion in SCHEDULES:
            if fusion[0] and reads_before(case):
                continue  # refused, below
            model = vim(case, cls_position, fusion)
            measured = measured_tokens(model, images())
            assert measured == model.scheduled_tokens
            tokens, expected = 65, []
            for block in model.blocks:  # by hand: what goes at the input or before the mixer, its mixer does not see
                gone = min(block.r, (tokens - 1) // 2) if tokens > 3 else 0
                at = block.method.placement if block.method else ""
                expected.append(tokens - gone * (at in ("input", "before")))
                tokens -= gone
            assert measured == (*expected, tokens)
            check_reduction(model, cpu)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_every_parameter_gets_a_gradient(case: Case, bf16: bool) -> None:
    for cls_position in positions(case):
        model = vim(case, cls_position).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images())
        logits.float().square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # a class token that is first has no state before it in the last layer, whose A decays nothing for it
            assert parameter.grad.any() or (name == "layers.5.mixer.A_log" and cls_position == "head"), name


@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_the_class_token_is_whole_in_both_streams(case: Case) -> None:
    """Through all layers, wherever the reductions have moved it."""
    for cls_position in positions(case):
        model = vim(case, cls_position)
        seen: list = []
        for block in model.blocks:
            if block.method is not None:
                block.method.register_forward_hook(lambda _, i, made, seen=seen: seen.append((i[0], made)))
        model(images(batch=3))
        assert len(seen) == sum(block.method is not None for block in model.blocks) * (
            2 if case[1].get("placement") == "inside" else 1
        )
        for given, (hidden, residual, reduction) in seen:
            rows = torch.arange(3)
            assert torch.equal(hidden[rows, reduction.cls_after], given.hidden[rows, given.cls])
            assert torch.equal(residual[rows, reduction.cls_after], given.residual[rows, given.cls])


@pytest.mark.parametrize("cls_position", ["head", "middle"])
@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_order_is_kept(case: Case, cls_position: str) -> None:
    """Raster order of the input positions, the class token apart; ToMe's is the evens, then the odds."""
    if cls_position not in positions(case):
        return
    model = vim(case, cls_position)
    for block in model.blocks:
        if block.method is not None:
            block.method.register_forward_hook(lambda _, inputs, made: reductions.append((inputs[0], made[2])))
    reductions: list = []
    model(images())
    for given, reduction in reductions:
        for kept, cls in zip(reduction.kept.tolist(), given.cls.tolist(), strict=True):
            patches = [token for token in kept if token != cls]
            if case[1].get("order") == "tome":
                assert kept == sorted(kept, key=lambda token: (token % 2, token))
                continue
            assert patches == sorted(patches)
            if case[0] != "rmeeto":
                assert kept == sorted(kept)


def by_hand(block: Block, hidden: Tensor, residual: Tensor, tokens: Tokens, key: Tensor) -> tuple[Tensor, Tensor]:
    """A block from its parts, with the arithmetic of its placement."""

    def reduce(x: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
        return block._reduce(x, stream, tokens, key)[:2]

    assert block.method is not None
    at = block.method.placement
    if at == "input":
        hidden, residual = reduce(hidden, residual)
    total = residual + hidden
    normed = total / (total.square().mean(dim=-1, keepdim=True) + block.norm.eps).sqrt() * block.norm.weight
    if at == "before":
        normed, total = reduce(normed, total)
    if at == "inside":
        gated, _ = block.mixer(normed, True)
        forward, total_after = reduce(gated[0], total)
        backward, _ = reduce(gated[1], total)
        return block.mixer.project(forward + backward), total_after
    out = block.mixer(normed)
    return reduce(out, total) if at == "after" else (out, total)


@pytest.mark.parametrize(
    "case",
    [*(("famba_v", {"placement": at}) for at in PLACEMENTS), ("rmeeto", {}), ("hsa", {"align": False})],
    ids=label,
)
def test_a_block_is_its_parts(case: Case) -> None:
    model = vim(case, "head").double()
    block, key = model.blocks[1], torch.tensor(0)
    hidden, residual = (torch.randn(2, 65, 16, dtype=torch.float64) for _ in range(2))
    whole = model(images().double())
    assert whole.isfinite().all()
    captured = []
    block.register_forward_hook(lambda _, inputs, outputs: captured.append((inputs, outputs)))
    block.method.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    seen: list = []
    model(images().double())
    (hidden, residual, tokens, key), (out, stream, _) = captured[0]
    tokens = tokens._replace(scanned=seen[0].scanned)
    want = by_hand(block, hidden, residual, tokens, key)
    assert torch.allclose(out, want[0], rtol=0, atol=1e-12)
    assert torch.allclose(stream, want[1], rtol=0, atol=1e-12)


def test_inside_each_direction_is_matched_for_itself() -> None:
    model = vim(("famba_v", {"placement": "inside"}), "head")
    made = []
    model.blocks[1].method.register_forward_hook(lambda _, inputs, outputs: made.append((inputs[0], outputs)))
    model(images())
    (forward, first), (backward, second) = made
    assert not torch.equal(forward.hidden, backward.hidden)
    assert torch.equal(forward.residual, backward.residual)
    assert not torch.equal(first[2].source, second[2].source)


def test_a_mixer_is_scanned_again_only_where_somebody_looks_inside() -> None:
    def inside(case: Case, fusion: tuple[int, ...], cls_position: str = "head") -> list[bool]:
        return [block.looks_inside for block in vim(case, cls_position, fusion).blocks]

    assert inside(("famba_v", {}), (0, 1, 0)) == [False] * 3
    assert inside(("famba_v", {"placement": "after"}), (0, 1, 0)) == [False] * 3
    assert inside(("famba_v", {"placement": "inside"}), (0, 1, 0)) == [False] * 3
    assert inside(("rmeeto", {}), (0, 1, 0)) == [False] * 3
    assert inside(("rmeeto", {"feature": "B"}), (0, 1, 0)) == [True, False, False]
    assert inside(("hsa", {}), (0, 1, 0)) == [False, True, False]


@pytest.mark.parametrize(
    ("case", "share"),
    [(("famba_v", {"placement": "inside"}), 1.1), (("utr", {}), 0.95), (("mtr", {}), 0.95), (("hsa", {}), 1.2)],
    ids=str,
)
def test_a_method_that_looks_inside_saves_little_for_the_backward_pass(
    case: Case, share: float, cpp_kernels: None
) -> None:
    """Relative to the model without one, whose mixers are one fused function each. HSA aligns its later mixers."""
    saved = [
        saved_activation_bytes(vim(case, "head", fusion), torch.device("cpu"), contextlib.nullcontext)
        for fusion in ((0, 0, 0), (0, 24, 12))
    ]
    assert saved[1] < share * saved[0]


def test_the_state_is_aligned_only_where_tokens_are_missing() -> None:
    def aligned(placement: str | None, align: bool = True) -> list[bool]:
        case = ("hsa", {"align": align, **({"placement": placement} if placement else {})})
        return [block.aligned for block in vim(case, "head", (0, 5, 0)).blocks]

    assert aligned(None) == [False, False, True]
    assert aligned("inside") == [False, False, True]
    assert aligned("before") == [False, True, True]
    assert aligned(None, align=False) == [False] * 3


def test_what_was_scanned_is_the_mixer_s_before() -> None:
    model = vim(("rmeeto", {"feature": "B"}), fusion=(0, 0, 5, 5))
    mixed, seen = [], []
    for block in model.blocks:
        block.mixer.register_forward_pre_hook(lambda mixer, inputs: mixed.append((mixer, inputs[0])))
        if block.method is not None:
            block.method.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].scanned))
    model(images())
    for got, (mixer, hidden) in zip(seen, mixed[1:3], strict=True):
        for one, other in zip(got, mixer.scanned(hidden), strict=True):
            assert torch.equal(one, other)
            assert not one.requires_grad


@pytest.mark.parametrize(
    ("case", "cls_position", "fusion", "said"),
    [
        (("famba_v", {"placement": "input"}), "middle", (1, 1), "method famba_v acts on what the mixer before"),
        (("rmeeto", {}), "middle", (1, 1), "method rmeeto acts on what the mixer before has put out"),
        (("famba_v", {"placement": "inside"}), "middle", (0, 1), "needs cls_position 'head'"),
    ],
)
def test_what_cannot_be_is_refused(case: Case, cls_position: str, fusion: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        vim(case, cls_position, fusion)


def test_a_reader_of_the_mixer_before_is_not_put_into_layer_0(tmp_path) -> None:
    (tmp_path / "reader.py").write_text(
        "from famba.methods.random_controls import RandomPrune\nclass Reader(RandomPrune):\n    needs_scanned = True\n"
    )
    case = (f"{tmp_path}/reader.py:Reader", {})
    with pytest.raises(InputError, match="layer 0 has none before it"):
        vim(case, fusion=(1, 1))
    model = vim(case, fusion=(0, 1))
    seen = []
    model.blocks[1].method.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].scanned))
    model(images())
    assert seen[0].y.shape == (2, 2, 65, 32)


def test_a_copied_or_pickled_model_has_its_methods(tmp_path) -> None:
    for case in METHOD_CASES:
        model = vim(case, positions(case)[0]).eval()
        torch.save(model, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(again(images()), model(images()))
        assert all(isinstance(b.method, Method) == bool(b.r) for b in again.blocks)
        assert model.state_dict().keys() == vim(("famba_v", {}), fusion=(0,) * 6).state_dict().keys()
