"""What the paper's own tables say, without any training: `famba audit`.

`readings`: the trainings of the tables, and the tokens that each has under a reading of the method. `memory` and
`epoch_time`: least squares on them. `statements`: the paper's statements compared with its tables. `document`: all of
it as audit.json. `page`: all of it as audit.md. No torch.
"""
