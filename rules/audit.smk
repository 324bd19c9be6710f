from famba.figures.captions import AUDIT, described


# What the paper's own tables say: no training, no row. Quick enough to belong to every experiment.
rule audit:
    input:
        tables="config/claims.yaml",
    output:
        "<results>/audit/audit.json",
        "<results>/audit/audit.md",
        "<results>/audit/published.csv",
        **{
            name: report(
                f"<results>/audit/{name}.svg",
                caption=f"captions/audit_{name}.rst",
                category="Audit",
                labels={"figure": caption.title},
            )
            for name, caption in AUDIT.items()
        },
    log:
        "<results>/logs/audit.log",
    params:
        folder=subpath(output.memory, parent=True),
        captions=described(AUDIT),
    message:
        "audit the paper's tables"
    shell:
        # `make demo` shows the findings at its end; here only an error is shown
        "python -m famba audit --out {params.folder} --claims {input.tables} > {log} 2>&1"
        " || {{ status=$?; cat {log} >&2; exit $status; }}"
