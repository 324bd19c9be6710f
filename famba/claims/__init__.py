"""What rows say of published claims.

`ledger`: claims and published numbers, made of `entries`, `published`, `cells` and `sweeps`. `decide`: the tests;
`verdicts`: what they come to, with `noise` beneath. `tables` and `paper_tables`: how both are shown. `audit`: the
paper's own numbers compared with each other.
"""
