# What the paper's own tables say: no training, no row. Quick enough to belong to every experiment.
rule audit:
    input:
        tables="config/claims.yaml",
    output:
        "<results>/audit/audit.json",
        "<results>/audit/audit.md",
        "<results>/audit/published.csv",
        memory=report(
            "<results>/audit/memory.svg",
            caption="captions/audit_memory.rst",
            category="Audit",
            labels={"figure": "published against fitted memory"},
        ),
        time=report(
            "<results>/audit/time.svg",
            caption="captions/audit_time.rst",
            category="Audit",
            labels={"figure": "published time against tokens"},
        ),
        starting_layer=report(
            "<results>/audit/starting_layer.svg",
            caption="captions/audit_starting_layer.rst",
            category="Audit",
            labels={"figure": "published top-1 against starting layer"},
        ),
    log:
        "<results>/logs/audit.log",
    params:
        folder=subpath(output.memory, parent=True),
    message:
        "audit the paper's tables"
    shell:
        # `make demo` shows the findings at its end; here only an error is shown
        "python -m famba audit --out {params.folder} --claims {input.tables} > {log} 2>&1"
        " || {{ status=$?; cat {log} >&2; exit $status; }}"
