"""What rows say of published claims.

`ledger`: reads config/claims.yaml, which is made of `entries` (claims and their tests), `published` (the paper's
tables) and `cells` (a claim for each cell of a table). `sweeps`: the paper's two studies of `upper`. `decide`: a
claim's test on measurements; `verdicts`: a verdict on every claim, with `noise`, the noise floor; `shared`: verdicts of
one reason. `tables`: the verdicts as a table; `paper_tables`: the paper's tables with what was measured. `audit/`: the
paper's own numbers compared with each other.
"""
