"""Defects planted into a training, as the regression gate must catch them.

`python -m tests.helpers.defects ROW...` shows that it does: of rows of the smoke grid it prints, in Markdown, what the
gate says of them as they are and after each defect, with the fused cells of the smallest model trained again under it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch

from famba import fusion
from famba.cli import main
from famba.errors import CheckFailed
from famba.fusion import Match
from famba.ops.merging import Reduction
from famba.results.row import read_row
from famba.training import checks, optim
from famba.training.train import Training
from tests.helpers import ROOT

Patch = pytest.MonkeyPatch
REAL = {"match": fusion.match, "streams": Reduction.streams, "lr": optim.learning_rate}
FROZEN = ROOT / "results" / "baselines" / "smoke.json"
MATCH = "famba.methods.famba_v.match"


def class_token_fused(patch: Patch) -> None:
    """It is matched like any other, and goes where its group goes."""
    patch.setattr(MATCH, lambda hidden, r, cls: REAL["match"](hidden, r, None))


def residual_merge_dropped(patch: Patch) -> None:
    """The residual stream is cut to length instead."""

    def streams(self: Reduction, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return REAL["streams"](self, hidden, residual)[0], residual[:, : self.tokens - self.removed]

    patch.setattr(Reduction, "streams", streams)


def order_scrambled(patch: Patch) -> None:
    def match(hidden: torch.Tensor, r: int, cls: torch.Tensor) -> Match:
        found = REAL["match"](hidden, r, cls)
        length = found.kept.shape[1]
        places = torch.randperm(length, generator=torch.Generator().manual_seed(length))
        return replace(found, kept=found.kept[:, places])

    patch.setattr(MATCH, match)


def nothing_fused(patch: Patch) -> None:
    """As the released code does."""
    patch.setattr(MATCH, lambda hidden, r, cls: REAL["match"](hidden, 0, cls))


def learning_rate_wrong(patch: Patch) -> None:
    patch.setattr(optim, "learning_rate", lambda *where: REAL["lr"](*where) / 10)


def checks_silenced(patch: Patch) -> None:
    """What a training checks of its fusions before it starts is put out."""
    patch.setattr(checks, "checked_tokens", lambda model, device: model.scheduled_tokens)
    patch.setattr(checks, "check_reduction", lambda model, device: None)


DEFECTS: dict[str, Callable[[Patch], None]] = {
    "The class token is fused with others": class_token_fused,
    "The residual stream is cut instead of merged": residual_merge_dropped,
    "The order of the tokens is scrambled by every fusion": order_scrambled,
    "Nothing is fused": nothing_fused,
    "The learning rate is a tenth": learning_rate_wrong,
}


def gate(rows: list[Path]) -> str:
    """What the gate prints of rows: the lines that fail, and how many hold."""
    said, error = StringIO(), StringIO()
    with redirect_stdout(said), redirect_stderr(error):
        status = main(["check", "--against", str(FROZEN), "--time-margin", "0.5", *map(str, rows)])
    lines = said.getvalue().splitlines()
    head, body = lines[:2], [line for line in lines[2:] if line.startswith("|")]
    failed = [line for line in body if line.endswith("| regression |")]
    held = f"{len(body) - len(failed)} of {len(body)} checks hold."
    lines = [*head, *failed, "", held] if failed else [held]
    last = f"`{error.getvalue().strip()}`: exit status {status}." if status else f"Exit status {status}."
    return "\n".join([*lines, "", last, ""])


def trained_again(defect: Callable[[Patch], None], rows: list[Path], folder: Path) -> tuple[list[Path], str | None]:
    """The rows, those of the smallest model trained anew under the defect, and what a training said that refused to.

    A defect of fusion leaves unfused cells as they are, to the last bit: those are not trained.
    """
    known = {path: read_row(path) for path in rows}
    model = min(known.values(), key=lambda row: row.cost.parameters).cell.model
    paths, refused = [], None
    with pytest.MonkeyPatch.context() as patch:
        defect(patch)
        for path, row in known.items():
            if row.cell.model != model or (row.cell.strategy == "baseline" and defect is not learning_rate_wrong):
                paths.append(path)
                continue
            try:
                training = Training(row.cell, folder / row.cell.id, Path("data"))
            except CheckFailed as error:
                refused = str(error)
                checks_silenced(patch)
                training = Training(row.cell, folder / row.cell.id, Path("data"))
            training.run()
            paths.append(folder / row.cell.id / "row.json")
    return paths, refused


INTRODUCTION = """# What the regression gate catches

`famba check --against results/baselines/smoke.json --time-margin 0.5` on the demo's rows, one seed against three frozen
ones as in CI (which gives times yet more room): first as they are, then with one model trained again under each planted
defect. Only the checks that fail are shown. Time ratios are of CPU time, which other programs on the machine change far
less than the wall clock. Made by

```
python -m tests.helpers.defects results/smoke/cells/*/row.json >docs/gate.md
```
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROW", help="rows of the smoke grid (row.json)")
    given = parser.parse_args().rows
    print(f"{INTRODUCTION}\n## A good run\n\n{gate(given)}")
    for title, planted in DEFECTS.items():
        with tempfile.TemporaryDirectory() as scratch:
            with redirect_stdout(sys.stderr):
                after, refused = trained_again(planted, given, Path(scratch))
            said = [f"No training starts: `{refused}`. With that check silenced:"] if refused else []
            print("\n\n".join([f"## {title}", *said, gate(after)]), flush=True)
