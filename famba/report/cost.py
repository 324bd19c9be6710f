"""What the trainings cost: calculated and planned beside measured."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from famba.config.validation import read_json
from famba.errors import InputError
from famba.flops import row_flops, step_cost
from famba.report.provenance import experiments
from famba.results.anchors import line_href
from famba.results.row import Row, Spent
from famba.results.summary import MIB, Line
from famba.results.tables import DASH, Column, Entry, Table, number, table
from famba.text import model_name, time_unit

JOULES_PER_KWH = 3.6e6


class Planned(BaseModel):
    """What the page takes from a cell of `famba plan --json`."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    cell: str
    cell_s: Spent


class Plan(BaseModel):
    """A file of `famba plan --json`."""

    model_config = ConfigDict(extra="ignore")

    experiment: str
    basis: list[str]
    cells: list[Planned]


def read_plan(path: Path, rows: Iterable[Row]) -> Plan:
    """Raises InputError, one line naming file and field; also for a plan of an experiment that no row is of."""
    plan = read_json(Plan, path, "plan of famba plan --json")
    there = experiments(rows)
    if plan.experiment not in there:
        raise InputError(
            f"{path}: the plan of experiment {plan.experiment}, and the rows are of {' and '.join(there)}; "
            "name the plan of theirs"
        )
    return plan


def cost_table(lines: Sequence[Line], by_line: Mapping[tuple[str, str], Sequence[Row]], plan: Plan | None) -> Table:
    """Predicted and measured, per model and strategy, of one training. Without a plan or a device that reports its
    energy, and for the peak of a CPU's process, there is no column."""
    unit, size = time_unit(max(line["total_s"] for line in lines))
    planned = {(plan.experiment, cell.cell): cell.cell_s for cell in plan.cells} if plan else {}
    columns: dict[str, list[Entry]] = {}
    for line in lines:
        rows = by_line[line["model"], line["strategy"]]
        first, href = rows[0], line_href(line["model"], line["strategy"])
        step = step_cost(first.cell, first.data.classes, first.scan.backend)
        seconds = [planned.get((row.cell.experiment, row.id)) for row in rows]
        joules = [row.cost.energy_joules for row in rows]
        entries = {
            "model": Entry(model_name(line["model"])),
            "strategy": Entry(line["strategy"]),
            f"time, planned ({unit})": number(_mean(seconds, size)),
            f"time, measured ({unit})": number(line["total_s"] / size, 2, href=href),
            "step ratio, from tokens": number(line["token_share"], 3),
            "step ratio, measured": number(line["step_ratio"], 3, href=href),
            "activations, calculated (MiB/image)": number(step.saved_per_image / MIB),
            "activations, measured (MiB/image)": number(line["saved_activations_mib_per_image"], 2, href=href),
            "peak, calculated (MiB)": number(step.peak_bytes / MIB if first.memory.device_peak else None, 0),
            "peak, measured (MiB)": number(line["peak_memory_mib"], 0, href=href),
            "forward pass (GFLOP/image)": number(row_flops(first) / 1e9, 3),
            "energy (kWh)": number(_mean(joules, JOULES_PER_KWH), 3, href=href),
        }
        for name, entry in entries.items():
            columns.setdefault(name, []).append(entry)
    there = {name: entries for name, entries in columns.items() if any(entry.text != DASH for entry in entries)}
    words = ("model", "strategy")
    return table(
        [Column(name, "l" if name in words else "r") for name in there], zip(*there.values(), strict=True),
        id="cost", caption="Predicted and measured, of one training (means over seeds)",
    )  # fmt: skip


def _mean(values: Sequence[float | None], size: float) -> float | None:
    """In another unit; None unless all are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) / size if len(there) == len(values) else None


def device_hours(rows: Sequence[Row]) -> str:
    """What the trainings took together."""
    seconds = sum(row.time.total for row in rows)
    first = rows[0].environment
    if first.device_kind == "cuda":
        amount, what = seconds * first.world_size / 3600, "GPU-hours"
    else:
        amount, what = seconds * first.threads * first.world_size / 3600, "CPU-hours (wall clock × threads)"
    joules = [row.cost.energy_joules for row in rows]
    known = [value for value in joules if value is not None]
    energy = f"{sum(known) / JOULES_PER_KWH:.3g} kWh" if len(known) == len(rows) else "their energy was not recorded"
    return f"{len(rows)} trainings took {amount:.3g} {what}; {energy}."
