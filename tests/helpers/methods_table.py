"""The table of results/evidence/cifar100-methods/README.md, from the files beside it.

python -m tests.helpers.methods_table prints it.
"""

import csv
import json
from pathlib import Path

import numpy as np

from famba.flops import row_flops
from famba.results.statistics import holm
from famba.results.summary import read_rows
from tests.helpers import ROOT

FOLDER = ROOT / "results" / "evidence" / "cifar100-methods"
CONTROL = "random_prune"
HEAD = (
    "| strategy | top-1 (%), n = 3 | minus random pruning, points | Holm's p | step time ratio "
    "| saved activations ratio | FLOPs ratio |\n|---|---|---|---|---|---|---|"
)


def table(folder: Path = FOLDER) -> str:
    """Every strategy: accuracy, its difference from random pruning on the same images, and its cost over no reduction.

    Holm's correction is over the comparisons of the table, each strategy that reduces with random pruning.
    """
    with (folder / "summary.csv").open(newline="") as file:
        lines = {line["strategy"]: line for line in csv.DictReader(file)}
    rows = read_rows(sorted(folder.glob("cells/*/row.json"))).values()
    flops = {row.cell.strategy: row_flops(row) for row in rows}  # not as the rows say: they are older than the count
    over = differences(folder)
    corrected = corrections(over)
    rows = [HEAD]
    for name, line in lines.items():
        entries = [
            f"`{name}`",
            f"{float(line['top1_last_percent']):.2f} ± {float(line['top1_last_percent_ci95']):.2f}",
            _difference(over[name], corrected.get(name)) if name in over else "–",
            _p(corrected[name]) if name in corrected else "–",
            *(_ratio(float(line[key])) for key in ("step_ratio", "saved_activations_ratio")),
            _ratio(flops[name] / flops["baseline"]),
        ]
        rows.append(f"| {' | '.join(entries)} |")
    return "\n".join(rows)


def differences(folder: Path = FOLDER) -> dict[str, dict[str, float]]:
    """By strategy: top-1 minus random pruning's, over seeds and images."""
    pairs = json.loads((folder / "paired.json").read_text())["pairs"]
    found = {}
    for pair in pairs:
        over = pair["over_seeds"]
        if pair["against"] == CONTROL:
            found[pair["strategy"]] = over
        elif pair["strategy"] == CONTROL:
            turned = {"difference": -over["difference"], "low": -over["high"], "high": -over["low"]}
            found[pair["against"]] = over | turned
    return found


def corrections(over: dict[str, dict[str, float]]) -> dict[str, float]:
    """Holm's p over the strategies that reduce tokens."""
    names = [name for name in over if name != "baseline"]
    return dict(zip(names, holm(np.array([over[name]["p"] for name in names])), strict=True))


def _difference(over: dict[str, float], corrected: float | None) -> str:
    shown = f"{over['difference']:+.2f} [{over['low']:+.2f}, {over['high']:+.2f}]".replace("-", "−")
    if corrected is None or corrected > 0.05:
        return shown
    return f"{shown} {'▲' if over['difference'] > 0 else '▼'}"


def _ratio(x: float) -> str:
    return "1" if x == 1 else f"{x:.3f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


if __name__ == "__main__":
    print(table())
