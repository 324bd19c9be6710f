"""How verdicts are shown: those that share a reason as one line."""

from famba.claims.ledger import load
from famba.claims.tables import verdict_table
from famba.claims.verdicts import by_reason, judge
from famba.report.evidence import claimed, measured, numbers
from famba.results.tables import effect_size, in_unit
from tests.helpers import ROOT
from tests.helpers.rows import make_row, paper_experiment

LEDGER = load(ROOT / "config" / "claims.yaml")
JUDGED = judge(LEDGER, [make_row(cell) for cell in paper_experiment(seeds=[0, 1, 2]).cells()], [])


def test_verdicts_collapse_only_where_verdict_and_reason_are_the_same():
    first, second, third, *_ = JUDGED.verdicts
    few = {"verdict": "inconclusive", "reason": "n = 1, needs 3"}
    told = [first.model_copy(update=few), second.model_copy(update=few)]
    other = third.model_copy(update=few | {"verdict": "not tested"})
    alone, shared = by_reason([told[0], other, told[1]])
    assert alone == [other]
    assert [group.verdicts for group in shared] == [told]
    assert shared[0].line == "2 claims inconclusive (recipe paper-scripts): n = 1, needs 3"


def test_a_shared_reason_is_said_once_and_no_claim_is_lost():
    alone, shared = by_reason(JUDGED.verdicts)
    assert len(alone) + sum(len(group.verdicts) for group in shared) == len(JUDGED.verdicts)
    text = verdict_table(JUDGED, "made up").markdown_page
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(alone) + 2  # head and rule
    for group in shared:
        assert text.count(group.line) == 1
    lines = [line for line in verdict_table(JUDGED, "made up").latex_float.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + len(alone) + len(shared)


def test_numbers_are_written_by_their_units():
    """Without powers of ten: of a memory in MiB these would hide by how much it misses the published one."""
    values = (16432.14, 4.55014, -0.0049, 0.95, 55.0, 55 + 2 / 3)
    shown = [in_unit(v, unit) for v, unit in zip(values, ("MiB", "h", "points", "%", "tokens", "tokens"), strict=True)]
    assert shown == ["16,432", "4.5501", "0.00", "0.95", "55", "55.7"]
    assert [effect_size(value) for value in (None, -0.144, 5.27, -1234.5)] == ["–", "-0.14", "5.27", "-1,234"]


def test_a_mean_memory_and_the_published_one_are_told_apart_in_every_form():
    verdict = next(v for v in JUDGED.verdicts if v.id == "table1-vim_small-upper-memory")
    verdict = verdict.model_copy(update={"mean": 16432.1, "low": 16391.7, "high": 16472.5, "unit": "MiB", "n": 3})
    (part,) = [
        part.model_copy(update={"mean": 16432.1, "low": 16391.7, "high": 16472.5, "expected": (16397.5, 16402.5)})
        for part in verdict.parts
    ]
    text = verdict_table(JUDGED.model_copy(update={"verdicts": [verdict]}), "made up").markdown_page
    assert "| 16,432 [16,392, 16,472] MiB |" in text
    assert measured(part, 10_000) == "16,432 MiB (16,392 to 16,472)"
    assert claimed(part) == "16,398 to 16,402 MiB"
    assert claimed(part.model_copy(update={"expected": (16399.6, 16400.4)})) == "16,400 MiB"  # but for rounding
    assert dict(numbers(verdict, 10_000))["mean"] == "16,432 MiB"
