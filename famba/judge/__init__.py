"""From result rows to what they let one conclude.

`summary` and `tables`: one line per model and strategy. `ledger`, `claims`, `verdicts`: what is published, how it is
tested, what the rows say of it; `statistics` and `noise` beneath. `baseline` and `gate`: frozen results and the
regression gate. `rules`: what a row must fulfil. `check`: the last three as a command.
"""
