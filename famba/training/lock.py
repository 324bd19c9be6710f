"""One training at a time in a cell's folder.

The lock is the kernel's (filelock: flock) and ends with the process, however that ends, kill -9 and a power cut
included. The file `.lock` names its holder; one that a killed training left behind blocks nobody. DataLoader workers
inherit the lock; filelock closes it in the child, or a worker that outlives a killed training would keep it for
seconds. On NFS, Linux asks the server (since 2.6.12), so that machines see each other's locks; a client that died is
forgotten after the server's lease, about 90 seconds. A file system without locks is used without one, and says so.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from famba.errors import InputError

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_GONE = {errno.ENOENT, errno.ESTALE}  # the file or the folder was removed between two of our calls
_ATTEMPTS, _PAUSE_S = 20, 0.05


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the context; folders that were created for it are removed again if still empty.

    Raises InputError, with who holds it, if another process does.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / NAME
    lock = FileLock(path, blocking=False, fallback_to_soft=False, on_acquired=partial(_sign, path))
    _acquire(lock, folder)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked: whoever locks it after us sees that the path no longer leads to it
        lock.release()
        with suppress(OSError):
            for new in made:
                new.rmdir()


def _acquire(lock: BaseFileLock, folder: Path) -> None:
    """Take the lock, or refuse with its holder's name; a holder that ends meanwhile takes the file with it."""
    holder = ""
    for _ in range(_ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            lock.acquire()
        except Timeout:
            holder = _holder(folder)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                print(
                    f"{folder}: this file system has no locks; do not start a second training in this folder",
                    file=sys.stderr,
                )
                return
            if error.errno not in _GONE:
                raise _unwritable(folder, error) from None
        else:
            return
        if holder:
            break
        time.sleep(_PAUSE_S)
    raise InputError(
        f"{folder}: another training of this cell is running ({holder or 'just started'}); wait for it, or stop it "
        "and run this command again to resume"
    )


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: cannot be written ({error.strerror}); make it writable, free space, or choose another folder"
    )


def _sign(path: Path, file: int) -> None:
    """Write the holder into the file that has just been locked. Raises OSError if `path` no longer leads to it.

    The holder before may have unlinked it after we had opened it. The link count does not show that on NFS, where
    unlinking a file that this machine has open renames it.
    """
    if not os.path.samestat(os.stat(path), os.fstat(file)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())


def _holder(folder: Path) -> str:
    """Who holds the lock; empty if it has just been taken and is not signed yet, or has just been left."""
    try:
        return (folder / NAME).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
