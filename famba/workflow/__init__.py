"""What Snakefile, rules and profiles ask: the experiment, what its jobs want of a cluster, its RO-Crate."""
