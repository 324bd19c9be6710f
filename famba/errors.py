"""The two ways a command ends badly: bad input (exit 2) and a failed check (exit 1)."""


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, what to do."""

    exit_code = 2


class CheckFailed(Exception):
    """A check ran to its end and its answer is no. The message is one line."""

    exit_code = 1
