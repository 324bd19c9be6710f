"""The table of results/evidence/cifar100-class-token/README.md, from the cells beside it.

python -m tests.helpers.class_token_table prints it.
"""

from pathlib import Path

import numpy as np

from famba.results.predictions import read_predictions
from famba.results.row import Row, read_row
from famba.results.same_images import Crossed, interaction_spread, mcnemar, over_seeds_and_images
from famba.results.statistics import interval
from tests.helpers import ROOT

FOLDER = ROOT / "results" / "evidence" / "cifar100-class-token"
HEAD, MIDDLE = "vim_mini", "vim_mini_middle"


def cells(folder: Path = FOLDER) -> dict[tuple[str, int], tuple[Row, np.ndarray]]:
    """By model and seed: the row, and which of the test images its network gets right, (N,) bool."""
    found = {}
    for path in sorted(folder.glob("cells/*/row.json")):
        row = read_row(path)
        found[row.cell.model, row.cell.seed] = row, read_predictions(path.with_name("predictions.npz"), row).correct
    return found


def compared(folder: Path = FOLDER) -> tuple[dict[int, tuple[float, float]], Crossed]:
    """The middle's top-1 less the head's, as shares: by seed with McNemar's p, and over seeds and images."""
    found = cells(folder)
    if len({row.data.order_digest for row, _ in found.values()}) > 1:
        raise ValueError("the test images are not in one order")
    differences = {seed: found[MIDDLE, seed][1].astype(float) - found[HEAD, seed][1] for seed in seeds(found)}
    scatter = interaction_spread({key: float(correct.mean()) for key, (_, correct) in found.items()})
    by_seed = {
        seed: (float(one.mean()), mcnemar(int((one > 0).sum()), int((one < 0).sum())))
        for seed, one in differences.items()
    }
    return by_seed, over_seeds_and_images(np.stack(list(differences.values())), scatter)


def seeds(found: dict[tuple[str, int], tuple[Row, np.ndarray]]) -> list[int]:
    return sorted(seed for model, seed in found if model == HEAD)


def table(folder: Path = FOLDER) -> str:
    """A line for each place of the token: top-1 of every seed, their mean, and the difference of the two."""
    found = cells(folder)
    numbers = seeds(found)
    lines = [
        f"| class token | {' | '.join(f'seed {seed}' for seed in numbers)} | top-1 (%), n = {len(numbers)} |",
        "|---" * (len(numbers) + 2) + "|",
    ]
    for model, where in ((HEAD, "head, as Famba-V's"), (MIDDLE, "middle, as Vim's")):
        top1 = [100 * float(found[model, seed][1].mean()) for seed in numbers]
        half = interval(top1)
        mean = f"{np.mean(top1):.2f}" + ("" if half is None else f" ± {half:.2f}")
        lines.append(f"| {where} | {' | '.join(f'{one:.2f}' for one in top1)} | {mean} |")
    by_seed, over = compared(folder)
    of_seeds = " | ".join(f"{100 * by_seed[seed][0]:+.2f}" for seed in numbers)
    whole = f"{100 * over.mean:+.2f} [{100 * over.low:+.2f}, {100 * over.high:+.2f}]"
    lines.append(f"| middle minus head, points | {of_seeds} | {whole} |".replace("-", "−"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    print(compared())
