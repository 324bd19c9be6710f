# From the rows of all cells to one line per model and strategy.
rule judge:
    input:
        collect(
            "<results>/cells/{cell}/row.json",
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
    log:
        "<results>/logs/judge.log",
    params:
        folder=subpath(output.csv, parent=True),
    message:
        "judge the rows of all cells"
    shell:
        "python -m famba judge --out {params.folder} {input} 2>&1 | tee {log}"
