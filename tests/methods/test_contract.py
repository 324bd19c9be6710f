"""The contract of a method: every built-in one keeps it, and each check catches the method that breaks it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from famba.cli import main
from famba.errors import CheckFailed
from famba.methods import Method, Reduction, Seen, drop, merge
from famba.methods.contract import check
from tests.helpers.method_cases import ELSEWHERE, METHOD_CASES, Case, label, made

CPU = torch.device("cpu")
CHECKS = ["runs", "counts", "tokens", "class token", "unchanged", "repeat", "batch", "gradients"]


@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_every_method_keeps_it(case: Case) -> None:
    assert [name for name, _ in check(made(case), CPU, torch.float32)] == CHECKS


@pytest.mark.parametrize("case", [*dict(reversed(METHOD_CASES)).items(), *ELSEWHERE], ids=label)
def test_every_method_keeps_it_in_bfloat16(case: Case) -> None:
    assert [name for name, _ in check(made(case), CPU, torch.bfloat16)] == CHECKS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", METHOD_CASES, ids=label)
def test_every_method_keeps_it_on_a_gpu(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert [name for name, _ in check(made(case), torch.device("cuda"), dtype)] == CHECKS


class First(Method):
    """A method in order: the first r patches are dropped."""

    def reduce(self, seen: Seen) -> Reduction:
        return drop(seen, seen.patches[:, : seen.r])


class Raises(First):
    def reduce(self, seen: Seen) -> Reduction:
        if seen.hidden.shape[1] == 17:
            raise RuntimeError("does not fit\nat all")
        return super().reduce(seen)


class ReturnsNothing(First):
    def reduce(self, seen: Seen) -> Reduction:
        return None  # type: ignore[return-value]


class ReadsWhatItDidNotAskFor(First):
    needs_history = False

    def reduce(self, seen: Seen) -> Reduction:
        return drop(seen, seen.size.argsort(dim=1)[:, : seen.r])


class KeepsOneMore(First):
    def reduce(self, seen: Seen) -> Reduction:
        return drop(seen, seen.patches[:, : max(seen.r - 1, 0)])


class JoinsMoreThanGo(First):
    def reduce(self, seen: Seen) -> Reduction:
        none = seen.patches[:, :0] if seen.r else seen.patches[:, :1]
        return replace(super().reduce(seen), source=none, target=none)


class WrongLength(First):
    def reduce(self, seen: Seen) -> Reduction:
        return replace(super().reduce(seen), tokens=seen.hidden.shape[1] + 1)


class FloatPositions(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, kept=found.kept.float())


class TargetsLack(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = merge(seen, seen.patches[:, : seen.r], seen.patches[:, -1:].expand(-1, seen.r))
        return replace(found, target=found.target[:, 1:])


class WeighsNothing(First):
    def reduce(self, seen: Seen) -> Reduction:
        return replace(super().reduce(seen), weight=torch.zeros_like(seen.hidden[..., 0]))


class WeighsTooFew(First):
    def reduce(self, seen: Seen) -> Reduction:
        return replace(super().reduce(seen), weight=torch.ones_like(seen.hidden[:, 1:, 0]))


class PrunesByNumbers(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, pruned=torch.zeros_like(found.source))


class KeepsATokenTwice(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        place = found.kept.shape[1] - 1
        return replace(found, kept=torch.cat([found.kept[:, :place], found.kept[:, :1]], dim=1))


class KeepsWhatIsNotThere(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, kept=found.kept + 1)


class JoinsWhatHasGone(First):
    def reduce(self, seen: Seen) -> Reduction:
        gone = seen.patches[:, : seen.r]
        return replace(super().reduce(seen), source=gone, target=gone.roll(1, dims=1))


class MergesWhatItKeeps(First):
    def reduce(self, seen: Seen) -> Reduction:
        last = seen.patches[:, -1:].expand(-1, min(seen.r, 1))
        return replace(super().reduce(seen), source=last, target=seen.cls[:, None].expand_as(last))


class Reverses(First):
    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, kept=found.kept.flip(1))


class DropsTheClassToken(First):
    def reduce(self, seen: Seen) -> Reduction:
        return drop(seen, torch.arange(seen.r).expand(len(seen.hidden), -1))


class JoinsTheClassToken(First):
    def reduce(self, seen: Seen) -> Reduction:
        return merge(seen, seen.patches[:, : seen.r], seen.cls[:, None].expand(-1, seen.r))


class ForgetsTheClassToken(First):
    def reduce(self, seen: Seen) -> Reduction:
        return replace(super().reduce(seen), cls=None)


class MovesTheClassTokenInside(First):
    placement = "inside"

    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, kept=found.kept.roll(-1, dims=1))


class AlignsOutOfOrder(First):
    aligns_state, keeps_order = True, False

    def reduce(self, seen: Seen) -> Reduction:
        found = super().reduce(seen)
        return replace(found, kept=found.kept.flip(1))


class WritesIntoItsInput(First):
    def reduce(self, seen: Seen) -> Reduction:
        seen.hidden.clamp_(min=0)
        return super().reduce(seen)


class ChangesOneStream(First):
    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        hidden, residual, found = super().forward(seen)
        return hidden, residual + 1, found


class ChangesTheType(First):
    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        hidden, residual, found = super().forward(seen)
        return hidden.double(), residual, found


class DrawsFromTorch(First):
    def reduce(self, seen: Seen) -> Reduction:
        order = torch.rand_like(seen.patches.float()).argsort(dim=1)
        return drop(seen, seen.patches.gather(1, order)[:, : seen.r])


class Remembers(First):
    calls = 0

    def reduce(self, seen: Seen) -> Reduction:
        self.calls += 1
        return drop(seen, seen.patches.roll(self.calls, dims=1)[:, : seen.r])


class LooksAtTheBatch(First):
    def reduce(self, seen: Seen) -> Reduction:
        away = (seen.hidden - seen.hidden.mean(dim=0)).square().sum(dim=-1).gather(1, seen.patches)
        return drop(seen, seen.patches.gather(1, away.argsort(dim=1))[:, : seen.r])


class StopsTheGradient(First):
    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        hidden, residual, found = super().forward(seen)
        return hidden, residual.detach(), found


class SpoilsTheGradient(First):
    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        hidden, residual, found = super().forward(seen)
        return hidden + 0 * (hidden - hidden.detach()).abs().sqrt(), residual, found


class HalvesTheGradient(First):
    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Reduction]:
        hidden, residual, found = super().forward(seen)
        return hidden, residual.detach() + (residual - residual.detach()) / 2, found


BROKEN = [
    (Raises, r"runs: layer 1, 17 tokens, class token at \[0, 0, 0\], r = 1: RuntimeError: does not fit at all"),
    (ReadsWhatItDidNotAskFor, "runs: layer 1, .* ValueError: .* needs_history = True"),
    (ReturnsNothing, r"counts: layer 1, 2 tokens, .* `reduce` returns NoneType, not a Reduction"),
    (
        KeepsOneMore,
        r"counts: layer 1, 4 tokens, .*: `kept` is int64 \(3, 4\), expected int64 \(3, 3\), as 1 of 4 tokens",
    ),
    (JoinsMoreThanGo, "counts: layer 1, 2 tokens, .*: there are 1 sources, but 0 of 2 tokens are to go"),
    (WrongLength, "counts: layer 1, 2 tokens, .*`tokens` is 3, but 2 were seen"),
    (FloatPositions, "counts: .*`kept` is float32"),
    (TargetsLack, r"counts: .*`target` is int64 \(3, 0\), expected int64 \(3, 1\)"),
    (WeighsNothing, "counts: .*`weight` has a number that is not positive and finite"),
    (WeighsTooFew, r"counts: .*`weight` is .* \(3, 1\), expected floating-point numbers \(3, 2\)"),
    (PrunesByNumbers, "counts: .*`pruned` is int64"),
    (KeepsATokenTwice, "tokens: layer 1, .*image 0: `kept` names token 0 twice"),
    (KeepsWhatIsNotThere, "tokens: layer 1, 2 tokens, .*image 0: `kept` names token 2 of 2"),
    (JoinsWhatHasGone, "tokens: layer 1, .*image 0: a source joins token 1, which is not kept"),
    (MergesWhatItKeeps, "tokens: layer 1, 4 tokens, .*image 0: token 3 is kept and a source"),
    (Reverses, "tokens: layer 1, .*the patches leave their order; a method that means it says keeps_order = False"),
    (DropsTheClassToken, "class token: layer 1, .*image 0: the class token, 0, is not kept"),
    (JoinsTheClassToken, "class token: layer 1, .*image 0: a source joins the class token, 0"),
    (ForgetsTheClassToken, "class token: layer 1, .*`cls` of the reduction is not the position"),
    (MovesTheClassTokenInside, "class token: layer 1, .*inside the mixer it must stay the first; it is at 1"),
    (AlignsOutOfOrder, "class token: layer 1, .*aligns_state asks for the order"),
    (WritesIntoItsInput, "unchanged: layer 1, .*the method writes into the tensors that it is given"),
    (ChangesOneStream, "unchanged: layer 1, .*image 0: the class token is not what it was in the residual stream"),
    (ChangesTheType, r"unchanged: layer 1, .*the hidden stream is float64 \(3, 2, 16\), expected float32 \(3, 2, 16\)"),
    (DrawsFromTorch, "repeat: layer 1, .*another result; random numbers come from `Seen.uniform` alone"),
    (Remembers, "repeat: layer 1, .*the same tokens and draws give another result"),
    (LooksAtTheBatch, "batch: layer 1, .*image 1 is reduced otherwise"),
    (StopsTheGradient, "gradients: layer 1, .*none reaches the residual stream"),
    (SpoilsTheGradient, "gradients: layer 1, .*that of the hidden stream is not finite"),
    (HalvesTheGradient, "gradients: layer 1, .*the class token's is not passed on as it is in the residual stream"),
]


@pytest.mark.parametrize(("broken", "said"), BROKEN, ids=lambda x: x.__name__ if isinstance(x, type) else "")
def test_each_check_catches_what_breaks_it(broken: type[Method], said: str) -> None:
    with pytest.raises(CheckFailed, match=f"^{said}") as failed:
        list(check(broken(), CPU, torch.float32))
    assert "\n" not in str(failed.value)


def test_every_check_is_broken_by_one_of_them() -> None:
    """Those of the model, too: `test_a_method_can_break_in_a_model_alone`."""
    assert {said.partition(":")[0] for _, said in BROKEN} == set(CHECKS)


def test_the_method_they_are_broken_copies_of_keeps_it() -> None:
    assert [name for name, _ in check(First(), CPU, torch.float32)] == CHECKS


def test_checks_that_passed_come_before_the_one_that_does_not() -> None:
    passed = []

    def run() -> Iterator[str]:
        for name, _ in check(JoinsTheClassToken(), CPU, torch.float32):
            passed.append(name)
            yield name

    with pytest.raises(CheckFailed):
        list(run())
    assert passed == ["runs", "counts", "tokens"]


PREFIX = "from famba.methods import Method, drop\n"
IN_A_MODEL = {
    "narrow": (
        "class Narrow(Method):\n"
        "    def reduce(self, seen):\n"
        "        assert seen.hidden.shape[2] == 16, 'knows 16 channels alone'\n"
        "        return drop(seen, seen.patches[:, :seen.r])\n",
        "model: class token first: AssertionError: knows 16 channels alone",
    ),
    "unused": (
        "import torch\n"
        "class Unused(Method):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.score = torch.nn.Linear(1, 1)\n"
        "    def reduce(self, seen):\n"
        "        return drop(seen, seen.patches[:, :seen.r])\n",
        "model: class token first: the gradient of layers.1.method.score.weight is missing",
    ),
}


@pytest.mark.parametrize("name", IN_A_MODEL)
def test_a_method_can_break_in_a_model_alone(name: str, tmp_path, capsys) -> None:
    code, said = IN_A_MODEL[name]
    (tmp_path / f"{name}.py").write_text(PREFIX + code)
    method = f"{tmp_path}/{name}.py:{name.capitalize()}"
    assert main(["methods", "test", method]) == 1
    told = capsys.readouterr()
    assert told.err == f"famba: error: method {method} breaks its contract (cpu, float32): {said}\n"
    assert told.out.count("  ok  ") == len(CHECKS)
