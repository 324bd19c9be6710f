from famba.figures import names_of
from famba.claims.sweeps import sweeps

# of the paper's studies that this experiment takes part in
STUDIES = {
    sweep.name: report(
        f"<results>/figures/{sweep.name}.svg",
        caption=f"captions/{sweep.name}.rst",
        category="Figures",
        labels={"figure": sweep.name.replace("_", " ")},
    )
    for sweep in sweeps(EXPERIMENT.strategies)
}


# The figures, each as SVG and PNG; `snakemake --report` shows the SVGs with their captions.
rule figures:
    input:
        rows=rules.judge.input.rows,
        epochs=collect(
            "<results>/cells/{cell}/epochs.csv",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
        tokens=collect(
            "<results>/cells/{cell}/tokens.npz",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
        published=LEDGER,
    output:
        **STUDIES,
        top1=report(
            "<results>/figures/top1.svg",
            caption="captions/top1.rst",
            category="Figures",
            labels={"figure": "top-1 accuracy"},
        ),
        time=report(
            "<results>/figures/time.svg",
            caption="captions/time.rst",
            category="Figures",
            labels={"figure": "training time"},
        ),
        memory=report(
            "<results>/figures/memory.svg",
            caption="captions/memory.rst",
            category="Figures",
            labels={"figure": "peak memory"},
        ),
        accuracy_time=report(
            "<results>/figures/accuracy_time.svg",
            caption="captions/accuracy_time.rst",
            category="Figures",
            labels={"figure": "accuracy against time"},
        ),
        accuracy_memory=report(
            "<results>/figures/accuracy_memory.svg",
            caption="captions/accuracy_memory.rst",
            category="Figures",
            labels={"figure": "accuracy against memory"},
        ),
        tokens=report(
            "<results>/figures/tokens.svg",
            caption="captions/tokens.rst",
            category="Figures",
            labels={"figure": "tokens per layer"},
        ),
        strategies=report(
            "<results>/figures/strategies.svg",
            caption="captions/strategies.rst",
            category="Figures",
            labels={"figure": "strategies"},
        ),
        curves=report(
            "<results>/figures/curves.svg",
            caption="captions/curves.rst",
            category="Figures",
            labels={"figure": "training curves"},
        ),
        similarity=report(
            "<results>/figures/similarity.svg",
            caption="captions/similarity.rst",
            category="Figures",
            labels={"figure": "similarity of patches"},
        ),
        best_match=report(
            "<results>/figures/best_match.svg",
            caption="captions/best_match.rst",
            category="Figures",
            labels={"figure": "best match by layer"},
        ),
        fused_patches=report(
            "<results>/figures/fused_patches.svg",
            caption="captions/fused_patches.rst",
            category="Figures",
            labels={"figure": "fused patches"},
        ),
        png=collect(
            "<results>/figures/{figure}.png",
            figure=names_of(EXPERIMENT.strategies),
        ),
    log:
        "<results>/logs/figures.log",
    params:
        folder=subpath(output.top1, parent=True),
    message:
        "draw the figures"
    shell:
        "python -m famba figures --out {params.folder} --claims {input.published[0]} {input.rows} 2>&1 | tee {log}"


# The page, with all of it inside; the same for a README and for a paper.
rule report:
    input:
        rows=rules.judge.input.rows,
        epochs=rules.figures.input.epochs,
        claims=LEDGER,
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
        rules.figures.input.epochs,
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
