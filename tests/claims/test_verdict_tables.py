"""How verdicts are shown: those that share a reason as one line."""

from famba.claims.ledger import load
from famba.claims.tables import verdict_table
from famba.claims.verdicts import by_reason, judge
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
