"""How a command ends early: bad input or something missing here (exit 2), a failed check (exit 1), a signal."""

import signal

from famba.text import one_line

_LONGEST = 2000  # characters of a message: it may quote what a file holds


class _OneLine(Exception):
    """Its message is one printable line, whatever it quotes: names and values come from files of anybody."""

    def __init__(self, message: str) -> None:
        line = one_line(message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…")


class InputError(_OneLine):
    """Something that was given is wrong, or a device, program or file is missing. One line: what, where, what to do."""

    exit_code = 2


class IntegrityError(InputError):
    """A file of a data set is there and is not what it must be: `famba data verify` is asked for just that."""


class CheckFailed(_OneLine):
    """A check ran to its end and its answer is no. The message is one line."""

    exit_code = 1


class Stopped(Exception):
    """A training that a signal asked to stop has saved a checkpoint and stopped. The message is one line."""

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.signal = by
        self.exit_code = 128 + by  # a shell's status of a process that the signal killed: schedulers run it again
