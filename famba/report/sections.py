"""The page's tables: summary, trainings, noise floor, published numbers, deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from famba.claims.ledger import Ledger
from famba.claims.noise import Noise, Scatter
from famba.report.prose import Deviations
from famba.results import summary
from famba.results.row import Row
from famba.results.summary import Line
from famba.results.tables import Entry, Table, as_csv, as_latex, csv_of, latex, note_of, number, row_href, table, words
from famba.text import model_name, time_unit


def summary_table(lines: Sequence[Line], what: str, by_line: Mapping[tuple[str, str], Sequence[Row]]) -> Table:
    """The summary's lines; CSV and LaTeX are those of `famba judge`."""
    unit, size = time_unit(max(line["train_s"] for line in lines))
    body = []
    for line in lines:
        trained = by_line[line["model"], line["strategy"]]
        body.append(
            [
                Entry(model_name(line["model"])),
                Entry(line["strategy"]),
                Entry(str(line["n"]), line["n"]),
                *(
                    number(line[f"top1_{when}_percent"], 2, line[f"top1_{when}_percent_ci95"])
                    for when in ("last", "best")
                ),
                number(line["train_s"] / size, 2, line["train_s_ci95"] and line["train_s_ci95"] / size),
                number(line["token_share"], 3),
                number(line["step_ratio"], 3, line["step_ratio_ci95"]),
                number(line["saved_activations_ratio"], 3),
                number(line["peak_memory_mib"], 0, line["peak_memory_mib_ci95"]),
                Entry(f"{line['tokens_first']} → {line['tokens_final']}", line["tokens_final"]),
                Entry(line["seeds"], links=[(f"s{row.cell.seed}", row_href(row)) for row in trained]),
            ]
        )
    head = (
        "model", "strategy", "n", "top-1, last (%)", "top-1, best (%)", f"time ({unit})", "predicted ratio",
        "step time ratio", "activations ratio", "peak memory (MiB)", "tokens", "rows",
    )  # fmt: skip
    exact: list[list[object]] = [list(lines[0]), *([_short(value) for value in line.values()] for line in lines)]
    return table(
        "summary", "One line per model and strategy", head, "llrrrrrrrrrl", body,
        ids=[f"line-{line['model']}-{line['strategy']}" for line in lines], note=note_of(lines),
        csv_text=csv_of(exact), latex=latex(lines, what),
    )  # fmt: skip


def _short(value: object) -> object:
    return "" if value is None else float(f"{value:.6g}") if isinstance(value, float) else value


def rows_table(rows: Sequence[Row]) -> Table:
    """One line per training."""
    unit, size = time_unit(max(row.time.train for row in rows))
    body = []
    for row in rows:
        m = summary.measures(row)
        body.append(
            [
                Entry(row.id, None, row_href(row)),
                *(
                    number(m[f"top1_{when}_percent"], 2, href=row_href(row))
                    for when in ("last", "best", "ema_last", "ema_best")
                ),
                number(m["train_s"] / size, 2, href=row_href(row)),
                number(m["loop_s"] / size, 2, href=row_href(row)),
                number(m["step_ms"], 1, href=row_href(row)),
                number(row.time.step_cpu_ms, 1, href=row_href(row)),
                number(m["images_per_s"], 1, href=row_href(row)),
                number(m["peak_memory_mib"], 0, href=row_href(row)),
                number(m["saved_activations_mib_per_image"], 2, href=row_href(row)),
            ]
        )
    head = (
        "row", "top-1, last (%)", "best", "EMA, last", "EMA, best", f"training ({unit})", f"loop without EMA ({unit})",
        "step (ms)", "CPU time of a step (ms)", "images/s", "peak memory (MiB)", "activations (MiB/image)",
    )  # fmt: skip
    return table("trainings", "One line per training", head, "lrrrrrrrrrrr", body)


def noise_table(noise: Sequence[Noise]) -> Table:
    """How far single trainings scatter."""
    body = [
        [
            Entry(model_name(n.model)), Entry("{} ({})".format(*words(n.quantity).rsplit(" ", 1))),
            *(number(value, digits) for spread in (n.seeds, n.repeats) for value, digits in _known(spread)),
        ]
        for n in noise
    ]  # fmt: skip
    head = ("model", "quantity (unit)", "sd between seeds", "df", "sd between repeats of a seed", "df of repeats")
    return table("noise", "Noise floor: standard deviation of one training", head, "llrrrr", body)


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
        body.append([Entry(of or "–"), Entry(words(p.quantity)), Entry(text), Entry(p.says or "–"),
                     Entry(ledger.sources[p.source])])  # fmt: skip
    head = ("of", "quantity", "value", "the source's words", "source")
    return table("published", "Published numbers, as far as our sources tell", head, "lllll", body)


def deviations_table(found: Deviations) -> Table:
    """docs/deviations.md's table."""
    body = [[Entry(text, float(text) if text.isdecimal() else None) for text in line] for line in found.lines]
    plain = [[Entry(e.text.replace("`", ""), e.exact) for e in line] for line in body]
    wide = r"p{0.4\textwidth}"
    columns = "r" + wide * (len(found.head) - 1)
    return table(
        "deviations-table", "Where paper, figures and released code disagree, and what famba does", found.head,
        "r" + "l" * (len(found.head) - 1), body,
        csv_text=as_csv(found.head, plain), latex=as_latex(found.head, columns, plain),
    )  # fmt: skip
