# One training. What it depends on is its cell: all settings of this model, strategy and
# seed, as JSON. A changed setting re-runs the cells that it changes and no others.
rule train:
    input:
        # its content is what matters, and every row records it: not when it was written
        ancient(f"data/{EXPERIMENT.dataset}.json"),
    output:
        row="<results>/cells/{model}-{strategy}-s{seed}/row.json",
        epochs="<results>/cells/{model}-{strategy}-s{seed}/epochs.csv",
    log:
        "<results>/cells/{model}-{strategy}-s{seed}/train.log",
    # on a CPU a training takes every core unless its threads are set, so that its times
    # mean something; on GPUs the `gpu` resource sees to that
    threads:
        EXPERIMENT.threads
        or (1024 if EXPERIMENT.device == "cpu" else EXPERIMENT.recipe.workers + 1)
    resources:
        gpu=0 if EXPERIMENT.device == "cpu" else 1,
    params:
        cell=EXPERIMENT.cell_json,
    message:
        "train {wildcards.model}, {wildcards.strategy}, seed {wildcards.seed}"
    shell:
        "python -m famba train --cell {params.cell:q} --out {output.row} --log {log}"
