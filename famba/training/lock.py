"""One training at a time in a cell's folder: an exclusive lock that the kernel holds for as long as the process lives.

It goes with the process, however that ends, kill -9 and a power cut included. The file `.lock` says who holds it; it is
gone after a training that ended by itself, and one that is left behind by another holds nobody up. On NFS, Linux asks
the server (since 2.6.12), so that machines see each other's locks; a client that died is forgotten after the server's
lease, about 90 seconds. A file system that knows no locks is used without one, and says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from famba.errors import InputError

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the context; folders that are made for it and stay empty go with it.

    Raises InputError, with who holds it, if another process does.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(folder / NAME)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free or choose another folder") from None
    _held.add(file)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / NAME).unlink()  # still held: whoever has opened it in the meantime sees that it is gone
        with suppress(OSError):
            for path in made:
                path.rmdir()
        _held.discard(file)
        os.close(file)


def _acquire(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            raise InputError(
                f"{path.parent}: another training is at work here ({holder or 'it has only just begun'}); wait for it, "
                "or stop it and run this again, which goes on where it stopped"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(file)
                raise
            print(f"{path.parent}: no locks on this file system: start no second training here", file=sys.stderr)
        if _is_still(path, file):
            break
        os.close(file)  # its last holder has just removed it
    os.ftruncate(file, 0)
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())
    return file


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """A loading process is no training: it may outlive one that was killed by some seconds, and must not hold it up."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
