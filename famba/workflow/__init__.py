"""What the Snakefile, rules and profiles ask, and the RO-Crate of a finished experiment.

`experiment`: the experiment, or a refusal. `cluster`: what one training asks of a cluster. `crate`: writes the
RO-Crate; `rocrate`: its JSON-LD.
"""
