from famba.workflow import cluster


# One training. What it depends on is its cell: all settings of this model, strategy and
# seed, as JSON. A changed setting re-runs the cells that it changes and no others.
rule train:
    input:
        # its content is what matters, and every row records it: not when it was written
        ancient(f"data/{EXPERIMENT.identified_data}.json"),
        EXPERIMENT.init_files,
    # epochs.csv, which grows while a cell trains, is none: after an interruption Snakemake would refuse it as incomplete
    output:
        row="<results>/cells/{model}-{strategy}-s{seed}/row.json",
        tokens="<results>/cells/{model}-{strategy}-s{seed}/tokens.npz",
        predictions="<results>/cells/{model}-{strategy}-s{seed}/predictions.npz",
    log:
        "<results>/cells/{model}-{strategy}-s{seed}/train.log",
    # on several nodes srun starts the container, and it is the host's
    container:
        EXPERIMENT.container if EXPERIMENT.nodes == 1 else None
    # CPUs, GPUs, memory and time of one training: what a cluster has to be told
    threads: cluster.threads(EXPERIMENT)
    resources:
        **cluster.resources(workflow, EXPERIMENT),
    params:
        cell=EXPERIMENT.cell_json,
    message:
        "train {wildcards.model}, {wildcards.strategy}, seed {wildcards.seed}"
    shell:
        cluster.command(
            workflow,
            EXPERIMENT,
            "python -m famba train --cell {params.cell:q} --out {output.row} --log {log}",
        )
