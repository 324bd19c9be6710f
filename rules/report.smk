from famba.figures import names_of
from famba.figures.captions import CAPTIONS, described

DRAWN = names_of(EXPERIMENT.strategies)


# The figures, each as SVG and PNG; `snakemake --report` shows the SVGs with their captions.
rule figures:
    input:
        rows=rules.judge.input.rows,
        tokens=collect(
            "<results>/cells/{cell}/tokens.npz",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
        published=LEDGER,
    output:
        **{
            name: report(
                f"<results>/figures/{name}.svg",
                caption=f"captions/{name}.rst",
                category="Figures",
                labels={"figure": CAPTIONS[name].title},
            )
            for name in DRAWN
        },
        png=collect("<results>/figures/{figure}.png", figure=DRAWN),
    log:
        "<results>/logs/figures.log",
    params:
        folder=subpath(output.top1, parent=True),
        captions=described(CAPTIONS, EXPERIMENT.protocol),
    message:
        "draw the figures"
    shell:
        "python -m famba figures --out {params.folder} --claims {input.published[0]} {input.rows} 2>&1 | tee {log}"


# The page, with the figures inside; the same for a README and for a paper. It judges nothing: rule judge does.
rule report:
    input:
        rows=rules.judge.input.rows,
        claims=LEDGER,
        judged=rules.judge.output,
        deviations="docs/deviations.md",
        figures=rules.figures.output,
        audit=rules.audit.output,
    output:
        html="<results>/report.html",
        markdown="<results>/report.md",
        latex="<results>/report.tex",
        # the paper's tables, published and measured
        csv="<results>/report.csv",
    log:
        "<results>/logs/report.log",
    message:
        "write the report"
    shell:
        "python -m famba report --out {output.html} --claims {input.claims[0]} --deviations {input.deviations} {input.rows}"
        " 2>&1 | tee {log}"


# What all of it is made of and how it came about, as an RO-Crate: it comes last. The settings are a parameter, as a
# cell's are, and not the file they were read from: an edited comment changes nothing.
rule crate:
    input:
        rules.figures.input.rows,
        rules.figures.input.tokens,
        rules.judge.output,
        rules.figures.output,
        rules.report.output,
    output:
        metadata="<results>/ro-crate-metadata.json",
        workflow=collect(
            "<results>/workflow/{file}",
            file=[
                "experiment.yaml",
                "requirements.txt",
                "Snakefile",
                "rules/data.smk",
                "rules/train.smk",
                "rules/judge.smk",
                "rules/audit.smk",
                "rules/report.smk",
            ],
        ),
    log:
        "<results>/logs/crate.log",
    params:
        folder=subpath(output.metadata, parent=True),
        experiment=EXPERIMENT.model_dump_json(),
    message:
        "describe the experiment as an RO-Crate"
    shell:
        "python -m famba crate {params.folder} --config {params.experiment:q} 2>&1 | tee {log}"
