"""What the Snakefile, rules and profiles ask, and the RO-Crate of a finished experiment."""
