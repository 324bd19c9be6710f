"""The report of an experiment: everything read once, then written as HTML, Markdown and LaTeX."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from famba.claims import ledger, paper_tables
from famba.claims import tables as verdict_tables
from famba.claims.audit.document import Document
from famba.claims.audit.page import findings
from famba.claims.verdicts import by_reason
from famba.config.validation import read_json
from famba.report import cost, embedded, evidence, judged, prose, provenance, recipes, sections
from famba.report import paper_tables as printed
from famba.report.html import render, source
from famba.results import pairs_table, summary
from famba.results.anchors import line_href
from famba.results.row import Row, by_line
from famba.results.tables import Table
from famba.results.targets_table import targets_table
from famba.text import SMOKE_NOTE, tex
from famba.text import markdown as escaped
from famba.training.status import cell_state

PAPER = "Famba-V: Fast Vision Mamba with Cross-Layer Token Fusion"


@dataclass(frozen=True)
class Report:
    """Rows, and what is said about them. `folder`: where the page will stand, so that its links lead to the rows."""

    by_path: Mapping[Path, Row]
    strategies: Sequence[str]
    ledger: ledger.Ledger
    judged: judged.Judged
    deviations: prose.Deviations
    plan: cost.Plan | None
    pictures: Sequence[embedded.Picture]
    audit: Sequence[str]
    audit_pictures: Sequence[embedded.Picture]
    folder: Path

    @cached_property
    def rows(self) -> list[Row]:
        return list(self.by_path.values())

    @property
    def lines(self) -> list[summary.Line]:
        return self.judged.lines

    @cached_property
    def unfinished(self) -> list[str]:
        """What is known of the cells beside these that have no row; none for rows that lie elsewhere."""
        beside = {path.parent.parent for path in self.by_path if path.parent.parent.name == "cells"}
        folders = sorted(folder for cells in beside for folder in cells.iterdir() if folder.is_dir())
        return [cell_state(folder).end for folder in folders if not (folder / "row.json").exists()]

    @cached_property
    def described(self) -> str:
        return summary.described(self.by_path)

    @cached_property
    def paper_tables(self) -> list[paper_tables.PaperTable]:
        """The paper's tables that these rows speak about."""
        return paper_tables.paper_tables(self.ledger, self.lines, self.rows)

    @cached_property
    def printed(self) -> list[Table]:
        """The same, to show; then the differences between recipes."""
        return [
            *printed.tables(self.paper_tables, self.rows, self.ledger.accuracy, bool(summary.shared_note(self.lines))),
            *recipes.tables(self.judged.verdicts.recipes),
        ]

    @cached_property
    def experiments(self) -> list[str]:
        """Those that the rows are of, in their order."""
        return provenance.experiments(self.rows)

    @property
    def title(self) -> str:
        noun = "experiment" if len(self.experiments) == 1 else "experiments"
        return f"Famba-V, measured again: {noun} {' and '.join(self.experiments)}"

    @property
    def dates(self) -> str:
        """First start to last end, UTC."""
        start, end = min(row.started for row in self.rows), max(row.finished for row in self.rows)
        day = "" if start[:10] == end[:10] else f"{end[:10]} "
        return f"{start[:10]} {start[11:16]} to {day}{end[11:16]} UTC"

    def link(self, path: Path) -> str:
        """A relative link from the page to a file."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


def read(rows: Sequence[Path], claims: Path, documented: Path, plan: Path | None, folder: Path) -> Report:
    """Read the rows, and what stands beside the page: judged, drawn and audited. Raises InputError."""
    by_path = summary.read_rows(rows)
    entries = ledger.load(claims)
    strategies = summary.strategy_order(row.cell.strategy for row in by_path.values())
    decided = judged.read(folder, by_path, entries)
    return Report(
        by_path,
        strategies,
        entries,
        decided,
        prose.deviations(documented),
        cost.read_plan(plan, by_path.values()) if plan else None,
        embedded.figures(folder / "figures", strategies, decided.verdicts.digest, by_path),
        _read_audit(folder / "audit" / "audit.json"),
        embedded.audit(folder / "audit"),
        folder,
    )


def _read_audit(path: Path) -> list[str]:
    """The main findings about the paper's own tables, as `famba audit` wrote them; none without its file."""
    if not path.is_file():
        return []
    found = read_json(Document, path, "audit", invalid="; run famba audit again")
    return [line.strip() for line in findings(found).splitlines()]


def html(report: Report) -> str:
    """The page."""
    style = source("report.css") + embedded.dark(report.strategies, report.pictures)
    verdicts, files = report.judged.verdicts, report.judged.files
    alone, shared = by_reason(evidence.unique(verdicts))
    trained = by_line(report.rows)
    context: dict[str, Any] = {
        "report": report,
        "paper": PAPER,
        "smoke_note": SMOKE_NOTE,
        "first": report.rows[0],
        "claims": alone,
        "shared": shared,
        "symbols": evidence.SYMBOLS,
        "line_href": line_href,
        "counts": evidence.counts(verdicts),
        "verdict_note": verdict_tables.note(verdicts),
        "verdict_copies": {
            "LaTeX": files["tables/verdicts.tex"],
            "CSV": evidence.as_csv(verdicts, report.ledger),
        },
        "wide": evidence.PLOT_WIDTH,
        "summary": sections.summary_table(report.lines, trained),
        "summary_copies": {"LaTeX": files["tables/summary.tex"], "CSV": files["summary.csv"]},
        "paired": pairs_table.tables(report.judged.paired, ""),
        "paired_csv": files["paired.csv"],
        "targets": targets_table(report.judged.targets, ""),
        "targets_copies": {"LaTeX": files["tables/targets.tex"], "CSV": files["targets.csv"]},
        "trainings": sections.rows_table(report.rows),
        "published": sections.published_table(report.ledger),
        "noise": sections.noise_table(verdicts.noise),
        "deviations": sections.deviations_table(report.deviations),
        "deviations_plain": sections.deviations_table(report.deviations, code=False),
        "cost": cost.cost_table(report.lines, trained, report.plan),
        "device_hours": cost.device_hours(report.rows),
        "environment": provenance.facts(report.rows),
        "commands": provenance.commands(report.rows),
        "revision": provenance.revision(report.rows),
        "shared_machine": summary.shared_note(report.lines),
        "rows": [
            (row, report.link(path), provenance.command(row), _inside_pre(row.model_dump_json(indent=1)))
            for path, row in report.by_path.items()
        ],
    }  # fmt: skip
    filters = {"pieces": prose.pieces, **evidence.FILTERS}
    return render("report.html.j2", style, source("report.js"), filters, context)


def _inside_pre(text: str) -> Markup:
    """Text of an element: its quotes stay, which takes a quarter less room than escaping them."""
    return Markup(escape(text, quote=False))


def markdown(report: Report) -> str:
    """For a README: summary, figures, verdicts, cost, how to run it again."""
    files = report.judged.files
    drawn = [picture.id.removeprefix("figure-") for picture in report.pictures if picture.svg]
    # the SVGs, whose rows have been checked: a PNG does not say which ones it was drawn from
    shown = [f"![{name.replace('_', ' ')}](figures/{name}.svg)" for name in drawn]
    parts = [
        f"# {report.title}",
        f"{report.dates}. All of it, with every number linked to its row: `report.html`.",
        *(["\n".join(["Cells without a row:", "", "```", *report.unfinished, "```"])] if report.unfinished else []),
        "## Results",
        *(part for t in report.printed for part in (f"### {escaped(t.caption)}", t.markdown, t.note)),
        *(["### Summary"] if report.printed else []),
        files["tables/summary.md"].strip(),
        *(["## Figures", *shown] if shown else []),
        *(
            ["## The paper's own tables", "\n".join(f"* {escaped(line)}" for line in report.audit)]
            if report.audit
            else []
        ),
        "## Verdicts",
        files["tables/verdicts.md"].strip(),
        "## On the same images",
        files["tables/paired.md"].strip(),
        "## Time to a target accuracy",
        files["tables/targets.md"].strip(),
        "## Cost",
        cost.device_hours(report.rows),
        "## Run it again",
        escaped(provenance.revision(report.rows)),
        "\n".join(["```", *provenance.commands(report.rows), "```"]),
    ]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """A document of the tables, to compile as it is or to take tables from."""
    env = "\n".join(
        rf"\item[{tex(fact.name)}] " + "; ".join(tex(value) for value, _ in fact.values)
        for fact in provenance.facts(report.rows)
    )
    return "\n".join(
        [
            r"\documentclass[10pt]{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{array,booktabs,textcomp}",
            r"\usepackage[a4paper,landscape,margin=2cm]{geometry}",
            r"\emergencystretch=3em",
            r"\setlength{\belowcaptionskip}{6pt}",
            rf"\title{{{tex(report.title)}}}",
            rf"\date{{{tex(report.dates)}}}",
            r"\author{}",
            r"\begin{document}",
            r"\maketitle",
            *(found.latex_float for found in report.printed),
            report.judged.files["tables/summary.tex"],
            report.judged.files["tables/verdicts.tex"],
            report.judged.files["tables/paired.tex"],
            report.judged.files["tables/targets.tex"],
            rf"\paragraph{{Cost}} {tex(cost.device_hours(report.rows))}",
            r"\paragraph{Environment}",
            r"\begin{description}",
            r"\raggedright",
            env,
            r"\end{description}",
            r"\end{document}",
            "",
        ]
    )


def csv(report: Report) -> str:
    """The paper's tables, every published and measured number one a line."""
    return printed.as_csv(report.paper_tables)
