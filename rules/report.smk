# The figures, each as SVG and PNG; `snakemake --report` shows the SVGs with their captions.
rule figures:
    input:
        rows=rules.judge.input.rows,
        epochs=collect(
            "<results>/cells/{cell}/epochs.csv",
            cell=[cell.id for cell in EXPERIMENT.cells()],
        ),
        published=EXPERIMENT.claims,
    output:
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
        curves=report(
            "<results>/figures/curves.svg",
            caption="captions/curves.rst",
            category="Figures",
            labels={"figure": "training curves"},
        ),
        png=collect(
            "<results>/figures/{figure}.png",
            figure=[
                "top1",
                "time",
                "memory",
                "accuracy_time",
                "accuracy_memory",
                "tokens",
                "curves",
            ],
        ),
    log:
        "<results>/logs/figures.log",
    params:
        folder=subpath(output.top1, parent=True),
    message:
        "draw the figures"
    shell:
        "python -m famba figures --out {params.folder} --claims {input.published} {input.rows} 2>&1 | tee {log}"
