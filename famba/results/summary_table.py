"""The files of the summary: summary.csv with every number, and tables/summary.md and .tex for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from famba.results.summary import Line, accuracy_note, shared_note
from famba.results.tables import DASH, Column, Table, csv_of, table, tokens
from famba.text import model_name, six_digits, time_unit

NOTE = (
    "Top-1: last epoch, mean ± 95 % interval over n seeds (Student t; none of n < 3). Time: training, without "
    "evaluation and each run's first step, by the wall clock. Memory: activations saved for the backward pass. Ratios: "
    "to the model without fusion, of a step's time (on a CPU: CPU time, in pairs with an unfused step where the row "
    "has that) and of memory; predicted from the tokens summed over layers."
)


def rounded(lines: Sequence[Line]) -> list[Line]:
    """The lines with six digits, as the files and the page have them."""
    return [{name: six_digits(value) for name, value in line.items()} for line in lines]


def summary_csv(lines: Sequence[Line]) -> str:
    """Every number of every line, with six digits; what there is none of is empty."""
    return csv_of([[*lines[0]], *([*line.values()] for line in rounded(lines))])


def note_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """How to read the summary, how far its accuracies go, and whether its times are of a shared machine."""
    return " ".join(filter(None, (NOTE, accuracy_note(lines), shared_note(lines))))


def summary_table(lines: Sequence[Mapping[str, Any]], run: str) -> Table:
    """A line per model and strategy. `run`: what was run."""
    unit, size = time_unit(max(line["train_s"] for line in lines))
    columns = (
        Column("model"), Column("strategy"), Column("n", "r"), Column("top-1 (%)", "r"), Column(f"time ({unit})", "r"),
        Column("step time ratio", "r", "pred. → meas."), Column("memory ratio", "r", "pred. → meas."),
        Column("tokens", "r", "first → final"),
    )  # fmt: skip
    return table(
        columns, [_entries(line, size) for line in lines], id="summary", run=run, note=note_of(lines),
        smoke=bool(lines[0]["watermark"]), grouped=True,
    )  # fmt: skip


def _entries(line: Mapping[str, Any], unit_s: float) -> list[str]:
    top1 = f"{line['top1_last_percent']:.2f}"
    if line["top1_last_percent_ci95"] is not None:
        top1 += f" ± {line['top1_last_percent_ci95']:.2f}"
    return [
        model_name(line["model"]),
        line["strategy"],
        str(line["n"]),
        top1,
        f"{line['train_s'] / unit_s:.2f}",
        _versus(line, "step_ratio"),
        _versus(line, "saved_activations_ratio"),
        f"{line['tokens_first']} → {tokens(line['tokens_final'])}",
    ]


def _versus(line: Mapping[str, Any], ratio: str) -> str:
    """Predicted and measured ratio; a dash for a missing one. The baseline is its own measure."""
    if line["strategy"] == "baseline":
        return "1"
    measured = DASH if line[ratio] is None else f"{line[ratio]:.3f}"
    return f"{line['token_share']:.3f} → {measured}"
