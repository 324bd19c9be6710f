"""audit.json: all findings of an audit. Its JSON schema is config/schema/audit.json."""

from collections.abc import Sequence
from typing import Literal

from famba.claims.audit.epoch_time import EpochTime, time_of
from famba.claims.audit.memory import Memory, memory_of
from famba.claims.audit.readings import trainings
from famba.claims.audit.statements import MODELS, Statement, statements
from famba.claims.published import PublishedRow
from famba.config.validation import Strict


class Document(Strict):
    """Everything that an audit finds. `memory` is Vim-Ti's 26 trainings; `memory_vim_small` has five only."""

    version: Literal[1] = 1
    source: str
    memory: Memory
    memory_vim_small: Memory
    time: dict[str, EpochTime]
    claims: list[Statement]


def audit(rows: Sequence[PublishedRow], source: str) -> Document:
    """Every finding. Raises InputError if the rows are not the paper's three tables."""
    found = {model: trainings(rows, model) for model in MODELS}
    return Document(
        source=source,
        memory=memory_of(found["vim_tiny"], "vim_tiny"),
        memory_vim_small=memory_of(found["vim_small"], "vim_small"),
        time={model: time_of(found[model], model) for model in MODELS},
        claims=statements(rows),
    )
