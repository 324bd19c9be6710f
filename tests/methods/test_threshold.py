"""A similarity threshold in place of a fixed number: every image is reduced as if it were alone."""

import csv
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import famba
from famba.checks.rules import apply
from famba.cli import main
from famba.config import Experiment
from famba.errors import CheckFailed, InputError
from famba.methods import Seen
from famba.methods.interface import Tokens
from famba.methods.lengths import Part, split
from famba.results.row import Row, read_row
from famba.results.tokens import read_tokens
from famba.training import checks
from famba.training.activations import saved_activation_bytes
from famba.training.train import Training
from tests.helpers.cells import MICRO
from tests.helpers.method_cases import Case, label, made, sequence, tokens_seen
from tests.helpers.slow_methods import mean, slow

CASES: list[Case] = [
    ("famba_v", {"threshold": 0.3}),
    ("famba_v", {"threshold": 0.0, "order": "tome"}),
    ("famba_v", {"threshold": 0.3, "size_weighted": True}),
    ("famba_v", {"threshold": 0.3, "placement": "input"}),
    ("rmeeto", {"threshold": 0.3}),
    ("rmeeto", {"threshold": 0.5, "feature": "B", "prune": True}),
]
SIZES = [(5, 2), (10, 4), (17, 8), (33, 5)]


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_tokens_are_those_of_the_slow_reference(case: Case, tied: bool) -> None:
    method, counted = made(case), set()
    for tokens, r in SIZES:
        seen = tokens_seen(tokens, torch.tensor([0, tokens // 2, tokens - 1, 1]), 7 * tokens, torch.float64, tied)
        seen = replace(seen, r=r)
        counts = method.counts(seen).clamp_max(r)
        counted |= {(n > 0) + (n == r) for n in counts.tolist()}
        for image in range(4):
            alone = one_of(seen, image, int(counts[image]))
            hidden, residual, reduction = method(alone)
            one = sequence(seen, image)
            slots = slow(case[0], one, case[1])
            assert tokens - len(slots) == counts[image]
            assert reduction.kept[0].tolist() == [slot.token for slot in slots]
            rows = seen.residual[image].tolist()
            for got, want in (
                (hidden, [mean(one.hidden, slot.hidden) for slot in slots]),
                (residual, [mean(rows, slot.residual) for slot in slots]),
            ):
                assert torch.allclose(got[0], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)
    assert len(counted) > 1  # numbers below r, too


def one_of(seen: Seen, image: int, r: int) -> Seen:
    """One sequence of a batch."""
    part = Part(torch.arange(4), seen.hidden, seen.residual, Tokens(seen.cls, seen.history, seen.scanned), seen.cls)
    _, out, residual, tokens, _ = part.take(torch.tensor([image]))
    assert out is not None
    assert isinstance(tokens.cls, torch.Tensor)
    return Seen(out, residual, tokens.cls, r, tokens.scanned, seen.uniform, tokens.history)


def vim(schedule: tuple[int, ...] = (0, 9, 9, 5), **by: Any) -> famba.VisionMamba:
    torch.manual_seed(0)
    model = famba.VisionMamba(16, 4, 10, 32, 4, fusion=schedule, **by)
    with torch.no_grad():  # as trained: tokens that differ from image to image
        model.pos_embed.mul_(20)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images(batch: int = 6) -> torch.Tensor:
    """Smooth ones and noisy ones."""
    noise = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    return noise * torch.linspace(0.05, 2, batch)[:, None, None, None]


@pytest.mark.parametrize("position", ["head", "middle"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_an_image_is_the_same_alone_and_among_others(case: Case, position: str) -> None:
    settings, batch, varied = {**case[1]}, images(), False
    placement = settings.pop("placement", None)
    for threshold in (0.6, 0.75, 0.86):  # similar is not the same everywhere
        by = {"method": case[0], "settings": settings | {"threshold": threshold}, "placement": placement}
        model = vim(cls_position=position, **by)
        with torch.no_grad():
            together, lengths = model(batch), model.lengths(batch)
            alone = torch.cat([model(image) for image in batch.split(1)])
            its_lengths = torch.cat([model.lengths(image) for image in batch.split(1)])
        assert torch.equal(lengths, its_lengths)
        assert torch.allclose(together, alone, rtol=0, atol=1e-5)
        checks.check_lengths(model, lengths)
        checks.check_reduction(model, torch.device("cpu"))
        varied = varied or len(lengths.unique(dim=0)) > 1
    assert varied


def test_gradients_are_the_sum_of_the_images_own() -> None:
    model, batch = vim(method="famba_v", settings={"threshold": 0.86}), images()

    def gradients(of: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        model(of).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    together = gradients(batch)
    alone = torch.stack([gradients(image) for image in batch.split(1)]).sum(dim=0)
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_the_lowest_threshold_is_the_schedule_and_the_highest_removes_nothing() -> None:
    batch = images()
    for threshold, schedule in ((-1.0, (0, 9, 9, 5)), (1.0, (0, 0, 0, 0))):
        model = vim(method="famba_v", settings={"threshold": threshold})
        fixed = famba.VisionMamba(16, 4, 10, 32, 4, fusion=schedule).eval()
        fixed.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(model(batch), fixed(batch))
            assert set(map(tuple, model.lengths(batch).tolist())) == {fixed.scheduled_tokens}


def test_what_one_image_saves_is_measured_on_it_twice() -> None:
    model, one = vim(method="famba_v", settings={"threshold": 0.86}), images(1)
    saved, of_two = (
        saved_activation_bytes(model, torch.device("cpu"), nullcontext, batch)
        for batch in (one, one.expand(2, -1, -1, -1))
    )
    assert saved == of_two > 0


def test_parts_are_split_by_number_and_keep_what_belongs_together() -> None:
    seen = tokens_seen(9, torch.tensor([0, 3, 5, 8]), 1, torch.float64)
    part = Part(
        torch.arange(4), None, seen.residual, Tokens(seen.cls, seen.history, seen.scanned), torch.arange(4) * 10
    )
    one, other = split(part, torch.tensor([2, 1, 2, 2]))
    assert (one[0], other[0]) == (1, 2)
    assert one[1].images.tolist() == [1]
    assert other[1].keys.tolist() == [0, 20, 30]
    assert other[1].tokens.cls.tolist() == [0, 5, 8]
    assert other[1].tokens.scanned is not None
    assert torch.equal(other[1].tokens.scanned.B, seen.scanned.B[:, [0, 2, 3]])  # type: ignore[union-attr]


def test_more_tokens_than_the_schedule_says_are_an_error() -> None:
    model = vim(method="famba_v", settings={"threshold": 0.5})
    lengths = torch.tensor([[65, 56, 47, 42, 42], [65, 56, 46, 42, 42]])
    with pytest.raises(CheckFailed, match="image 1 loses 10 in layer 2, where at most 9 may go"):
        checks.check_lengths(model, lengths)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    Training(experiment(0.97).cell("vim_micro", "similar", 0), folder, Path("data")).run()
    return folder


def experiment(threshold: float, placement: str | None = None, **recipe: Any) -> Experiment:
    own = {"like": "upper", "settings": {"threshold": threshold}} | ({"placement": placement} if placement else {})
    recipe = MICRO["recipe"] | {"epochs": 1} | recipe
    return Experiment.from_config(MICRO | {"schedules": {"similar": own}, "strategies": ["similar"], "recipe": recipe})


def test_a_row_has_the_mean_and_the_range_of_what_was_measured(trained: Path) -> None:
    row = read_row(trained / "row.json")
    assert row.tokens.scheduled == (17, 13, 8, 5, 5)
    assert row.tokens.range is not None
    for bound, mean_of, (least, most) in zip(row.tokens.scheduled, row.tokens.measured, row.tokens.range, strict=True):
        assert bound <= least <= mean_of <= most <= 17
    assert any(least < most for least, most in row.tokens.range)
    assert row.time.step_ratio is None
    record = read_tokens(trained / "tokens.npz", row)
    assert record.seen == 64
    verdicts = {one.rule: (one.verdict, one.detail) for one in apply({trained / "row.json": row})}
    assert verdicts["trace"] == verdicts["fused"] == verdicts["predicted"] == ("ok", "")


def test_a_fixed_schedule_is_checked_as_before(trained: Path) -> None:
    row = read_row(trained / "row.json").model_dump(mode="json")
    fixed = row | {"cell": row["cell"] | {"fusion": {"order": "sequence", "budget": "proportional"}}}
    with pytest.raises(ValueError, match=r"tokens\.range is of a threshold, and the cell has none"):
        Row.model_validate(fixed)
    without = {key: value for key, value in row["tokens"].items() if key != "range"}
    with pytest.raises(ValueError, match="are not the schedule's"):
        Row.model_validate(row | {"tokens": without})
    below = row["tokens"] | {"range": [[n - 1, 17] for n in row["tokens"]["scheduled"]]}
    with pytest.raises(ValueError, match="where the schedule leaves 17 at least"):
        Row.model_validate(row | {"tokens": below})


def test_an_evaluation_measures_the_same_tokens(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, out = read_row(trained / "row.json"), tmp_path / "out.csv"
    quick = ("--batch", "2", "--rounds", "1", "--threads", "1", "--device", "cpu", "--out", str(out))
    assert main(["evaluate", str(trained / "row.json"), "--strategies", "similar", *quick]) == 0
    with out.open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["tokens"] == " ".join(f"{mean_of:.2f}" for mean_of in row.tokens.measured)
    assert float(line["top1"]) == pytest.approx(row.metrics.last.top1)
    assert int(line["forward_flops"]) == row.cost.forward_flops
    capsys.readouterr()
    program = ["export", str(trained / "row.json"), "--strategy", "similar", "--out", str(tmp_path / "x.pt2")]
    assert main(program) == 2
    assert "has a threshold, so its token counts are not fixed" in capsys.readouterr().err


def test_the_contract_has_a_check_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "test", "famba_v", "--set", "threshold=0.2"]) == 0
    assert "threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "after"}, "similar: a threshold counts before the mixer; set placement: before or input"),
        ({"cuda_graphs": True}, "recipe.cuda_graphs: a graph has fixed shapes, and the threshold of similar has not"),
    ],
)
def test_what_a_threshold_does_not_go_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment(0.9, **settings)
    assert message in str(error.value)
    with pytest.raises(InputError, match="threshold: Input should be less than or equal to 1"):
        vim(method="famba_v", settings={"threshold": 1.5})
    with pytest.raises(InputError, match="counts at placement before or input"):
        vim(method="rmeeto", settings={"threshold": 0.5}, placement="after")


def test_a_method_of_ones_own_may_have_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path / 'mine.py'}:Mine"
    model = vim(method=name, settings={"threshold": 0.5})
    with torch.no_grad():
        assert len(model.lengths(images()).unique(dim=0)) > 1
    assert main(["methods", "test", name, "--set", "threshold=0.5"]) == 0


OWN = '''
from famba.methods import Method, Reduction, Seen, drop, rows_at


class Mine(Method):
    """Drops patches of a small norm, those below the threshold."""

    needs_history = False

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def _norms(self, seen: Seen):
        return rows_at(seen.residual, seen.patches).norm(dim=2)

    def counts(self, seen: Seen):
        norms = self._norms(seen)
        return (norms < self.threshold * norms.amax(dim=1, keepdim=True)).sum(dim=1)

    def reduce(self, seen: Seen) -> Reduction:
        return drop(seen, seen.patches.gather(1, self._norms(seen).argsort(dim=1, stable=True)[:, : seen.r]))
'''
