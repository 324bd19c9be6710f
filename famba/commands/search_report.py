"""What `famba search` writes: a CSV line for each schedule, the layers' damage, a figure, and a block of YAML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from famba.commands import chosen
from famba.commands.chosen import NONE, Setting
from famba.config.methods import DEFAULT
from famba.cost.damage import Curve
from famba.figures import search as figure
from famba.figures.search import Point
from famba.files import write_text
from famba.results.epochs import write_csv
from famba.results.same_images import difference_interval, mcnemar
from famba.results.statistics import holm
from famba.results.tables import DASH, Column, table
from famba.strategies import NAMED
from famba.text import count

Line = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A schedule, found or the paper's, and what is predicted of it. `rival`: the paper's of the same cost."""

    setting: Setting
    cost: float
    damage: float
    rival: str = ""


@dataclass(frozen=True)
class Checked:
    """What was measured on the training images that check the prediction: damage, and points of top-1 lost."""

    damage: float
    points: float


@dataclass(frozen=True)
class Report:
    """All that was predicted, and what is made of it.

    Attributes:
        found, checked: the schedules, the unreduced one first.
        whole: its cost. cost: which, in words. front: (cost, damage) of the best schedules.
        curves: of each layer alone, where the method can act.
        rate: points of top-1 that a predicted damage of 1 takes.
        chosen_on: which images. images: how many the layers were measured on, and as many checked.
    """

    found: Sequence[Candidate]
    checked: Sequence[Checked]
    cost: str
    whole: float
    front: Sequence[tuple[float, float]]
    curves: Sequence[Curve | None]
    rate: float
    chosen_on: str
    out: Path

    def about(self, line: Line, correct: Mapping[str, np.ndarray]) -> Line:
        """What a line of an evaluation says beyond it."""
        at = next(i for i, one in enumerate(self.found) if one.setting.strategy == line["strategy"])
        one, checked = self.found[at], self.checked[at]
        more = {
            "schedule": " ".join(map(str, one.setting.schedule)),
            "cost": self.cost,
            "predicted_cost": one.cost,
            "cost_share": one.cost / self.whole,
            "predicted_damage": one.damage,
            "checked_damage": checked.damage,
            "predicted_loss": self.rate * one.damage,
            "checked_loss": checked.points,
            "chosen_on": self.chosen_on if one.setting.strategy.startswith("found_") else "",
            **dict.fromkeys(("rival", "only_this", "only_rival", "difference_low", "difference_high", "mcnemar_p")),
        }
        if one.rival and one.setting.name in correct:
            rival = next(other.setting for other in self.found if other.setting.strategy == one.rival)
            mine, other = correct[one.setting.name], correct[rival.name]
            gained, lost = int((mine & ~other).sum()), int((other & ~mine).sum())
            low, high = difference_interval(gained, lost, len(mine))
            more |= {
                "rival": one.rival, "only_this": gained, "only_rival": lost, "difference_low": 100 * low,
                "difference_high": 100 * high, "mcnemar_p": mcnemar(gained, lost),
            }  # fmt: skip
        return more

    def write(self, lines: Sequence[Line]) -> None:
        """The layers, the schedules and the figure; and for people what was found."""
        beside = self.out.parent / self.out.stem
        layers = [
            {"layer": layer, "removed": removed, "damage": value}
            for layer, curve in enumerate(self.curves)
            for removed, value in (curve or {}).items()
        ]
        write_csv(("layer", "removed", "damage"), layers, beside.with_name(f"{beside.name}-layers.csv"))
        write_text(beside.with_name(f"{beside.name}.yaml"), self.block())
        points = [
            Point(
                line["strategy"], line["rival"] or "", line["cost_share"], line["predicted_loss"],
                line["checked_loss"], line["top1"],
            )
            for line in lines
        ]  # fmt: skip
        front = [(cost / self.whole, self.rate * value) for cost, value in self.front]
        figure.draw(points, front, beside.with_name(f"{beside.name}.svg"), self.cost, self.note(lines))
        print(self._table(lines))
        print(self.additivity)
        print(self.note(lines))

    def block(self) -> str:
        """The schedules that were found, as an experiment takes them."""
        own = [one.setting for one in self.found if one.setting.strategy not in NAMED]
        lines = [f"# Found without training, on {self.chosen_on}; what a training reaches may differ."]
        lines += ["# Paste into an experiment, and name those to train in its `strategies`.", "schedules:"]
        for setting in own:
            written = yaml.safe_dump(_own(setting), default_flow_style=True, width=10_000, sort_keys=False).strip()
            lines.append(f"  {setting.strategy}: {written}")
        return "\n".join(lines) + "\n"

    @property
    def additivity(self) -> str:
        """How well the sum over layers predicts what was measured on other images."""
        pairs = [(one.damage, two.damage) for one, two in zip(self.found, self.checked, strict=True) if one.damage > 0]
        if len(pairs) < 3:
            return "additivity: too few schedules that do damage to check it"
        predicted, measured = np.array(pairs).T
        ratio = measured / predicted
        rank = stats.spearmanr(predicted, measured).statistic
        return (
            f"additivity: on other training images the damage of {count(len(pairs), 'schedule')} was "
            f"{np.median(ratio):.2f} times the sum over layers ({ratio.min():.2f} to {ratio.max():.2f}); "
            f"rank correlation {rank:.3f}"
        )

    def note(self, lines: Sequence[Line]) -> str:
        """What has to be known of all of it."""
        tested = count(lines[0]["images"], "test image")
        return (
            f"chosen without retraining, on {self.chosen_on}; evaluated on {tested} that took no part in the choice. "
            "Accuracy after training with these schedules may differ."
        )

    def _table(self, lines: Sequence[Line]) -> str:
        columns = (
            Column("strategy"), Column("cost", "r"), Column("damage", "r"), Column("checked", "r"),
            Column("predicted loss", "r"), Column("checked loss", "r"), Column("top-1 (%)", "r"),
            Column("against"), Column("difference"), Column("p (Holm)", "r"), Column("schedule"),
        )  # fmt: skip
        paired = [line["strategy"] for line in lines if line["mcnemar_p"] is not None]
        adjusted = holm(np.array([line["mcnemar_p"] for line in lines if line["mcnemar_p"] is not None]))
        p = dict(zip(paired, adjusted.tolist(), strict=True))
        return table(columns, (tuple(_texts(line, p.get(line["strategy"]))) for line in lines)).plain


def _texts(line: Line, p: float | None) -> Iterator[str]:
    yield line["strategy"]
    yield f"{line['cost_share']:.1%}"
    yield f"{line['predicted_damage']:.4f}"
    yield f"{line['checked_damage']:.4f}"
    yield f"{line['predicted_loss']:.2f}"
    yield f"{line['checked_loss']:.2f}"
    yield DASH if line["top1"] is None else f"{line['top1']:.2f}"
    yield line["rival"] or ""
    yield "" if p is None else f"{line['difference_low']:+.1f} to {line['difference_high']:+.1f}"
    yield "" if p is None else f"{p:.2g}"
    yield line["schedule"]


def _own(setting: Setting) -> Any:
    """As a schedule of an experiment: a list, or a mapping where the method is not the experiment's default."""
    settings, placement = chosen.apart(setting.settings)
    written: dict[str, Any] = {"per_layer": list(setting.schedule)}
    if setting.method not in (NONE, DEFAULT):
        written["method"] = setting.method
    if settings:
        written["settings"] = dict(settings)
    if placement is not None:
        written["placement"] = placement
    return written if len(written) > 1 else list(setting.schedule)


def words(number: float) -> str:
    """A number as a part of a name: 62.5 -> 62_5."""
    return f"{number:g}".replace(".", "_")


def told(method: Setting) -> str:
    """A method and its settings, as `famba evaluate --method` takes them."""
    return ":".join([method.method, *(f"{key}={value}" for key, value in method.settings.items())])
