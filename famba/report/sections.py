"""The page's tables: summary, trainings, noise floor, published numbers, deviations."""

from collections.abc import Mapping, Sequence

from famba.claims.ledger import Ledger
from famba.claims.noise import Noise, Scatter
from famba.report.prose import Deviations
from famba.results import summary
from famba.results.anchors import line_id, row_href
from famba.results.row import Row
from famba.results.summary import Line
from famba.results.summary_table import note_of
from famba.results.tables import DASH, Column, Entry, Table, difference, in_images, number, table, tokens, words
from famba.text import model_name, time_unit


def summary_table(lines: Sequence[Line], by_line: Mapping[tuple[str, str], Sequence[Row]]) -> Table:
    """The summary's lines."""
    unit, size = time_unit(max(line["train_s"] for line in lines))
    shared = summary.shared_note(lines) is not None
    body = [
        [
            Entry(model_name(line["model"])),
            Entry(line["strategy"]),
            Entry(str(line["n"]), line["n"]),
            *(number(line[name], 2, line[f"{name}_ci95"]) for name in ("top1_last_percent", "top1_best_percent")),
            _to_baseline(line),
            number(line["train_s"] / size, 2, line["train_s_ci95"] and line["train_s_ci95"] / size),
            *([number(line["wall_to_cpu"], 1)] if shared else []),
            number(line["token_share"], 3),
            number(line["step_ratio"], 3, line["step_ratio_ci95"]),
            number(line["saved_activations_ratio"], 3),
            number(line["peak_memory_mib"], 0, line["peak_memory_mib_ci95"]),
            Entry(f"{line['tokens_first']} → {tokens(line['tokens_final'])}", line["tokens_final"]),
            Entry(
                line["seeds"],
                links=[(f"s{r.cell.seed}", row_href(r)) for r in by_line[line["model"], line["strategy"]]],
            ),
        ]
        for line in lines
    ]
    numbers = (
        "n", "top-1, last (%)", "top-1, best (%)", "to baseline (points)", f"time ({unit})",
        *(["wall / CPU time"] if shared else []), "predicted ratio", "step time ratio", "activations ratio",
        "peak memory (MiB)", "tokens",
    )  # fmt: skip
    return table(
        [Column("model"), Column("strategy"), *_numeric(numbers), Column("rows")], body, id="summary",
        caption="One line per model and strategy", note=note_of(lines),
        ids=[line_id(line["model"], line["strategy"]) for line in lines],
    )  # fmt: skip


def _to_baseline(line: Line) -> Entry:
    """How far the top-1 of the last epoch lies from the baseline's, in points and in test images."""
    points = line["top1_to_baseline_points"]
    if points is None or line["strategy"] == "baseline":
        return Entry(DASH)
    return Entry(f"{difference(points, None, '{:.2f}'.format).text} ({in_images(points, line['test_images'])})", points)


def _numeric(names: Sequence[str]) -> list[Column]:
    return [Column(name, "r") for name in names]


def rows_table(rows: Sequence[Row]) -> Table:
    """One line per training."""
    unit, size = time_unit(max(row.time.train for row in rows))
    body = []
    for row in rows:
        m, href = summary.measures(row), row_href(row)
        values = (
            *((m[f"top1_{when}_percent"], 2) for when in ("last", "best", "ema_last", "ema_best")),
            (m["train_s"] / size, 2), (m["loop_s"] / size, 2), (m["step_ms"], 1), (row.time.step_cpu_ms, 1),
            (m["images_per_s"], 1), (m["peak_memory_mib"], 0), (m["saved_activations_mib_per_image"], 2),
        )  # fmt: skip
        body.append([Entry(row.id, None, href), *(number(value, digits, href=href) for value, digits in values)])
    numbers = (
        "top-1, last (%)", "best", "EMA, last", "EMA, best", f"training ({unit})", f"loop without EMA ({unit})",
        "step (ms)", "CPU time of a step (ms)", "images/s", "peak memory (MiB)", "activations (MiB/image)",
    )  # fmt: skip
    return table([Column("row"), *_numeric(numbers)], body, id="trainings", caption="One line per training")


def noise_table(noise: Sequence[Noise]) -> Table:
    """How far single trainings scatter."""
    body = [
        [
            Entry(model_name(n.model)), Entry("{} ({})".format(*words(n.quantity).rsplit(" ", 1))),
            *(number(value, digits) for spread in (n.seeds, n.repeats) for value, digits in _known(spread)),
        ]
        for n in noise
    ]  # fmt: skip
    numbers = ("sd between seeds", "df", "sd between repeats of a seed", "df of repeats")
    columns = [Column("model"), Column("quantity (unit)"), *_numeric(numbers)]
    return table(columns, body, id="noise", caption="Noise floor: standard deviation of one training")


def _known(spread: Scatter) -> list[tuple[float | None, int]]:
    """Standard deviation and degrees of freedom with their decimals; without degrees of freedom there is neither."""
    return [(spread.sd, 3), (spread.df or None, 0)]


def published_table(ledger: Ledger) -> Table:
    """Every published number, and those that are not."""
    body = []
    for p in ledger.published:
        of = ", ".join(filter(None, (model_name(p.model) if p.model else None, p.strategy)))
        low_high = p.value if isinstance(p.value, tuple) else None
        shown = f"{low_high[0]:g} to {low_high[1]:g}" if low_high else "" if p.value is None else f"{p.value:g}"
        sign = p.relation if p.relation in ("<", "<=") else ""
        text = f"{sign} {shown} {p.unit}".strip() if shown else "not published in the sources we have"
        body.append([of or DASH, words(p.quantity), text, p.says or DASH, ledger.sources[p.source]])
    columns = [Column(name) for name in ("of", "quantity", "value", "the source's words", "source")]
    return table(columns, body, id="published", caption="Published numbers, as far as our sources have them")


def deviations_table(found: Deviations, code: bool = True) -> Table:
    """docs/deviations.md's table; without the marks of `code` for CSV and LaTeX."""
    body = [
        [Entry(text if code else text.replace("`", ""), float(text) if text.isdecimal() else None) for text in line]
        for line in found.lines
    ]
    number_, *others = found.head
    return table(
        [Column(number_, "r"), *(Column(name, wide=0.4) for name in others)], body, id="deviations-table",
        caption="Where paper, figures and released code differ, and what famba does",
    )  # fmt: skip
