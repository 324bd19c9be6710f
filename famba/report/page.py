"""The report of an experiment: everything read once, then written as HTML, Markdown and LaTeX."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from famba import __version__, text
from famba.claims import ledger, noise, paper_tables, verdicts
from famba.claims import tables as verdict_tables
from famba.claims.audit import document
from famba.claims.audit import page as audit_page
from famba.figures import names_of, palette
from famba.figures.results import Results, read_results
from famba.report import cost, evidence, figures, pictures, prose, provenance, recipes, sections
from famba.report import paper_tables as printed
from famba.report.charts import MARKERS
from famba.report.pictures import Picture
from famba.results import summary, tables
from famba.results.row import Row
from famba.results.tables import Table, as_markdown
from famba.text import SMOKE_NOTE

PAPER = "Famba-V: Fast Vision Mamba with Cross-Layer Token Fusion"
_TEMPLATES = PackageLoader("famba.report")


@dataclass(frozen=True)
class Report:
    """Rows, and what is said about them. `folder`: where the page will stand, so that its links lead to the rows."""

    results: Results
    ledger: ledger.Ledger
    verdicts: verdicts.Verdicts
    deviations: prose.Deviations
    plan: cost.Plan | None
    studies: Sequence[pictures.Picture]
    pictures: Sequence[pictures.Picture]
    folder: Path

    @cached_property
    def rows(self) -> list[Row]:
        return list(self.results.rows.values())

    @cached_property
    def lines(self) -> list[summary.Line]:
        return summary.summarise(self.results.rows)

    @cached_property
    def described(self) -> str:
        return summary.described(self.results.rows)

    @cached_property
    def paper_tables(self) -> list[paper_tables.PaperTable]:
        """The paper's tables that these rows speak about."""
        return paper_tables.paper_tables(self.ledger, self.lines, self.rows)

    @cached_property
    def printed(self) -> list[Table]:
        """The same, to show; then the differences between recipes."""
        return [
            *printed.tables(self.paper_tables, self.rows, self.ledger.accuracy),
            *recipes.tables(self.verdicts.recipes),
        ]

    @cached_property
    def audit(self) -> list[str]:
        """The main findings about the paper's own tables; none where the ledger does not hold them."""
        rows = [row for table in self.ledger.tables for row in table.flat()]
        if {row.table for row in rows} != {1, 2, 3}:
            return []
        found = document.audit(rows, self.ledger.sources.get("paper", ""))
        return [line.strip() for line in audit_page.findings(found).splitlines()]

    @property
    def audit_pictures(self) -> list[Picture]:
        """The figures of the audit beside this page."""
        return pictures.audit(self.folder / "audit")

    @property
    def audit_page(self) -> bool:
        """Whether the audit's own page stands beside this one."""
        return (self.folder / "audit" / "audit.md").is_file()

    @property
    def title(self) -> str:
        return f"Famba-V, measured again: experiment {self.rows[0].cell.experiment}"

    @property
    def dates(self) -> str:
        """First start to last end, UTC."""
        start, end = min(row.started for row in self.rows), max(row.finished for row in self.rows)
        day = "" if start[:10] == end[:10] else f"{end[:10]} "
        return f"{start[:10]} {start[11:16]} to {day}{end[11:16]} UTC"

    def link(self, path: Path) -> str:
        """A relative link from the page to a file."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


def read(
    rows: Sequence[Path], claims: Path, repeats: Sequence[Path], documented: Path, plan: Path | None, folder: Path
) -> Report:
    """Read and judge the rows, as `famba judge` does. Raises InputError."""
    results = read_results(rows, claims)
    published = ledger.load(claims)
    there = list(results.rows.values())
    floor = noise.noise_floor(there, noise.read_repeats(repeats, results.rows))
    return Report(
        results,
        published,
        verdicts.judge(published, there, floor),
        prose.deviations(documented),
        cost.read_plan(plan) if plan else None,
        pictures.studies(folder / "figures", results.strategies),
        pictures.read(folder / "figures"),
        folder,
    )


def html(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["pieces"] = prose.pieces
    style = _source(environment, "report.css") + _colours(report.results.strategies)
    script = _source(environment, "report.js")
    markers = palette.markers(report.results.strategies)
    alone, shared = evidence.claims(report.verdicts, report.ledger)
    by_line: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        by_line.setdefault((row.cell.model, row.cell.strategy), []).append(row)
    context: dict[str, Any] = {
        "report": report,
        "paper": PAPER,
        "version": __version__,
        "smoke_note": SMOKE_NOTE,
        "first": report.rows[0],
        "policy": "; ".join(
            ["default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'", "img-src data:",
             "base-uri 'none'", "form-action 'none'"]
        ),
        "style": Markup(style),
        "script": Markup(script),
        "claims": alone,
        "shared": shared,
        "counts": evidence.counts(report.verdicts),
        "verdict_note": verdict_tables.note(report.verdicts),
        "verdict_copies": {
            "LaTeX": verdict_tables.latex(report.verdicts, report.described),
            "CSV": evidence.as_csv(report.verdicts, report.ledger),
        },
        "figures": figures.figures(report.results, report.lines),
        "legend": [(i, name, MARKERS[markers[name]]) for i, name in enumerate(report.results.strategies)],
        "star": MARKERS["*"],
        "summary": sections.summary_table(report.lines, report.described, by_line),
        "trainings": sections.rows_table(report.rows),
        "published": sections.published_table(report.ledger),
        "noise": sections.noise_table(report.verdicts.noise),
        "deviations": sections.deviations_table(report.deviations),
        "cost": cost.cost_table(report.lines, by_line, report.plan),
        "device_hours": cost.device_hours(report.rows),
        "environment": provenance.facts(report.rows),
        "commands": provenance.commands(report.rows),
        "dirty": sum(row.environment.git_dirty is True for row in report.rows),
        "rows": [
            (row, report.link(path), provenance.command(row), row.model_dump_json(indent=1))
            for path, row in report.results.rows.items()
        ],
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(context)


def markdown(report: Report) -> str:
    """For a README: summary, figures, verdicts, cost, how to run it again."""
    names = names_of(report.results.strategies)
    there = [name for name in names if (report.folder / "figures" / f"{name}.png").is_file()]
    shown = [f"![{name.replace('_', ' ')}](figures/{name}.png)" for name in there]
    parts = [
        f"# {report.title}",
        f"{report.dates}. All of it, with every number linked to its row: `report.html`.",
        "## Results",
        *(part for t in report.printed for part in (f"### {t.caption}", as_markdown(t), t.note)),
        *(["### Summary"] if report.printed else []),
        tables.markdown(report.lines, report.described).strip(),
        *(["## Figures", *shown] if shown else []),
        *(["## The paper's own tables", "\n".join(f"* {line}" for line in report.audit)] if report.audit else []),
        "## Verdicts",
        verdict_tables.markdown(report.verdicts, report.described).strip(),
        "## Cost",
        cost.device_hours(report.rows),
        "## Again",
        "\n".join(["```", *provenance.commands(report.rows), "```"]),
    ]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """A document of the tables, to compile as it is or to take tables from."""
    env = "\n".join(
        rf"\item[{text.tex(fact.name)}] " + "; ".join(text.tex(value) for value, _ in fact.values)
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
            rf"\title{{{text.tex(report.title)}}}",
            rf"\date{{{text.tex(report.dates)}}}",
            r"\author{}",
            r"\begin{document}",
            r"\maketitle",
            *map(_floating, report.printed),
            tables.latex(report.lines, report.described),
            verdict_tables.latex(report.verdicts, report.described),
            rf"\paragraph{{Cost}} {text.tex(cost.device_hours(report.rows))}",
            r"\paragraph{Environment}",
            r"\begin{description}",
            r"\raggedright",
            env,
            r"\end{description}",
            r"\end{document}",
            "",
        ]
    )


def _floating(found: Table) -> str:
    """A table of many columns as LaTeX sets it on a landscape page."""
    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{text.tex(found.caption)}. {text.tex(found.note)}}}",
            rf"\label{{tab:{found.id}}}",
            found.latex.rstrip(),
            r"\end{table*}",
            "",
        ]
    )


def csv(report: Report) -> str:
    """The paper's tables, every published and measured number one a line."""
    return printed.as_csv(report.paper_tables)


def _source(environment: Environment, name: str) -> str:
    """A file beside the template, as it is."""
    return _TEMPLATES.get_source(environment, name)[0]


def _colours(strategies: Sequence[str]) -> str:
    """The strategies' colours, as the figures have them; in the dark, lighter."""
    found = palette.colours(strategies)
    return "".join(f".s{i}{{--hue:{found[name]}}}" for i, name in enumerate(strategies)) + "\n"


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
