# The identity of a data set, written once the whole of it has been read and verified. It is the input of every
# training; the images themselves stay where DVC, the package or the system put them, and `digits` has no file at all.
rule dataset:
    output:
        "data/{dataset}.json",
    log:
        "data/{dataset}.log",
    wildcard_constraints:
        dataset="cifar100|fashion-mnist|digits",
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
        "python -m famba data pull {wildcards.dataset} --identity {output} 2>&1 | tee {log}"
