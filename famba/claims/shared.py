"""Verdicts that share one reason, so that a page says the reason once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from famba.claims.verdicts import Verdict
from famba.text import count


@dataclass(frozen=True)
class Shared:
    """Two or more verdicts of one kind and recipe for one reason."""

    verdicts: Sequence[Verdict]

    @property
    def line(self) -> str:
        """Such as `12 claims not tested: these are smoke rows`."""
        first = self.verdicts[0]
        recipe = "" if first.recipe == "custom" else f" (recipe {first.recipe})"
        return f"{count(len(self.verdicts), 'claim')} {first.verdict}{recipe}: {first.reason}"


def by_reason(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Shared]]:
    """Verdicts with a reason of their own, and those that share one; both in the ledger's order."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.verdict, verdict.recipe, verdict.reason), []).append(verdict)
    alone = [group[0] for group in groups.values() if len(group) == 1]
    return alone, [Shared(group) for group in groups.values() if len(group) > 1]
