"""What Snakefile, rules and profiles ask: the experiment, and what its jobs want of a cluster."""
