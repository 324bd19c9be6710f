from famba.workflow.experiment import data_command


# The identity of a data set, written once the whole of it has been read and verified. It is the input of every
# training; the images themselves stay where DVC, the package or the system put them, and `digits` has no file at all.
# It is made where it is missing and for no other reason: Snakemake does not look at the settings of trainings behind a
# rule that runs. So another manifest of an image folder has another file, and nothing here is a parameter.
rule dataset:
    output:
        "data/{dataset}.json",
    log:
        "data/{dataset}.log",
    wildcard_constraints:
        dataset=EXPERIMENT.identified_data,
    # another workflow manager takes over: DVC, which is the host's as the network is, and not the image's
    handover: True
    container:
        None
    # without one of its own, a handover takes every core: unknown where a cluster has them
    resources:
        download=1,
    message:
        "verify {wildcards.dataset}, after fetching what is missing"
    shell:
        data_command(EXPERIMENT)
