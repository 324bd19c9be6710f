"""The two ways a command ends badly: bad input or something missing here (exit 2), and a failed check (exit 1)."""


class InputError(Exception):
    """Something that was given is wrong, or a device, program or file is missing. One line: what, where, what to do."""

    exit_code = 2


class Altered(InputError):
    """A file of a data set is there and is not what it must be: `famba data verify` is asked for just that."""


class CheckFailed(Exception):
    """A check ran to its end and its answer is no. The message is one line."""

    exit_code = 1
