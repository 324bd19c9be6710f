# From the rows of all cells to one line per model and strategy, and a verdict per claim.
rule judge:
    input:
        rows=collect(
            "<results>/cells/{cell}/row.json",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
        claims=LEDGER,
        predictions=collect(
            "<results>/cells/{cell}/predictions.npz",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
    output:
        csv=report(
            "<results>/summary.csv",
            caption="captions/summary.rst",
            category="Tables",
            labels={"table": "summary"},
        ),
        json="<results>/summary.json",
        markdown="<results>/tables/summary.md",
        latex="<results>/tables/summary.tex",
        claims="<results>/claims.json",
        verdicts=multiext("<results>/tables/verdicts", ".md", ".tex"),
        paired=multiext("<results>/paired", ".json", ".csv"),
        targets=multiext("<results>/targets", ".json", ".csv"),
        tables=collect(
            "<results>/tables/{table}.{kind}",
            table=["paired", "targets"],
            kind=["md", "tex"],
        ),
    log:
        "<results>/logs/judge.log",
    params:
        folder=subpath(output.csv, parent=True),
    message:
        "judge the rows of all cells"
    shell:
        "python -m famba judge --out {params.folder} --claims {input.claims[0]} {input.rows}"
        " 2>&1 | tee {log}"
