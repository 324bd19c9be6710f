"""Files that are written whole or not at all, and sealed ones, which a reader recognises when they are damaged.

A seal is the sha256 of all bytes before it, at the end of the file. A zip archive may be followed by other bytes, so
torch.load and numpy.load read a sealed file as they read any other. Their own checks do not cover it all: torch.load
never compares the checksums that its archive holds.
"""

import errno
import glob
import hashlib
import io
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from famba.errors import InputError

_MARK = b"\nfamba sha256 "
LENGTH = len(_MARK) + 64 + 1
_CHUNK = 1 << 20
LARGEST_TEXT = 2**26  # bytes of a row, a ledger's verdicts, the metrics of an epoch: hundreds of times the largest
UNSEALED, MISMATCH = "no checksum at its end", "its checksum does not match"


@contextmanager
def atomic_file(path: Path, binary: bool = False, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is written whole and on disk. Raises InputError if it cannot be.

    Not `durable`, it is not waited for until it is on disk: after a power cut it may be torn. What a killed process
    left half-written of the same file is deleted.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
        try:
            text = {} if binary else {"encoding": "utf-8", "newline": ""}
            with open(partial, "wb" if binary else "w", **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        failed = _failed_call(error)
        if failed is None:
            raise
        raise InputError(
            f"{path}: cannot be written ({failed.strerror}); make it writable, free space, or choose another folder"
        ) from None


def _remove_leftovers(path: Path) -> None:
    """Delete the file's partial copies by processes of this host that have ended; both are named in them.

    On a shared file system another host's process may still write its own.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(socket.gethostname())}.*.part"):
        with suppress(ValueError, OverflowError, PermissionError):
            try:
                os.kill(int(left.name.split(".")[-2]), 0)
            except ProcessLookupError:
                left.unlink(missing_ok=True)


def _failed_call(error: BaseException | None) -> OSError | None:
    """The system call that failed: torch's archive writer raises a RuntimeError while it handles that one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file to read. Raises OSError, also for a device or a pipe, which may have no end or never begin."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "not the name of a file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "a device or pipe, not a regular file")


def read_bytes(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """What a file holds. Raises OSError, also for one of more than `most` bytes."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def read_text(path: Path, what: str, hint: str = "") -> str:
    """The text of a UTF-8 file, line ends as they are; `what` it is and what to do without it, for messages.

    Raises InputError.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise InputError(f"{path}: cannot read {what} ({reason}){hint}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is there whole or not at all. Raises InputError."""
    with atomic_file(path) as file:
        file.write(text)


class _Hashed:
    """A binary file that only grows, and the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def sealed_file(path: Path) -> Iterator[_Hashed]:
    """Open a binary file to write in order; it takes its name once it is whole, sealed and on disk.

    Raises InputError if it cannot be written.
    """
    with atomic_file(path, binary=True) as file:
        hashed = _Hashed(file)
        yield hashed
        file.write(_MARK + hashed.digest.hexdigest().encode() + b"\n")


def flaw(path: Path) -> str | None:
    """What is wrong with a sealed file: `UNSEALED` or `MISMATCH`; None if nothing is.

    Raises OSError if it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size - LENGTH
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        seal = file.read(LENGTH + 1)
    if left < 0 or not seal.startswith(_MARK):
        return UNSEALED
    return None if seal == _MARK + digest.hexdigest().encode() + b"\n" else MISMATCH
