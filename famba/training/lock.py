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
from pathlib import Path

from filelock import FileLock, Timeout

from famba.errors import InputError

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_GONE = {errno.ENOENT, errno.ESTALE}  # the file or the folder was removed between two of our calls
_ATTEMPTS, _PAUSE_S = 20, 0.05


@contextmanager
def exclusive(folder: Path) -> Iterator[Lock]:
    """Hold the folder's lock inside the context; folders that were created for it are removed again if still empty.

    Raises InputError, with who holds it, if another process does, and where no file can be created in the folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = Lock(folder)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()
        with suppress(OSError):
            for new in made:
                new.rmdir()


class Lock:
    """The lock of a cell's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / NAME
        self._signed: os.stat_result | None = None
        self._lock = FileLock(self._path, blocking=False, fallback_to_soft=False, on_acquired=self._sign)

    def renew(self) -> bool:
        """Take the lock again if somebody has deleted its file, or the folder; returns whether that was so.

        Raises InputError if another training has taken the folder since.
        """
        if not self._lock.is_locked or self._is_own():
            return False
        self._lock.release()
        self.acquire()
        return True

    def acquire(self) -> None:
        """Take the lock, or refuse with its holder's name; a holder that ends meanwhile takes the file with it."""
        folder, holder = self._folder, ""
        for _ in range(_ATTEMPTS):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(folder, error) from None
            try:
                self._lock.acquire()
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
                break
            if holder:
                break
            time.sleep(_PAUSE_S)
        if not self._lock.is_locked:
            raise InputError(
                f"{folder}: another training of this cell is running ({holder or 'just started'}); wait for it, or "
                "stop it and run this command again to resume"
            )
        if not os.access(folder, os.W_OK | os.X_OK):  # a killed training's lock file can be locked even so
            self._lock.release()
            raise _unwritable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def release(self) -> None:
        """Leave the folder; a lock file that is another training's stays."""
        if self._is_own():
            with suppress(OSError):
                self._path.unlink()  # still locked: whoever locks it after us sees that the path no longer leads to it
        self._lock.release()

    def _is_own(self) -> bool:
        """Whether the path still leads to the file that was locked."""
        try:
            return self._signed is not None and os.path.samestat(os.stat(self._path), self._signed)
        except FileNotFoundError:
            return False

    def _sign(self, file: int) -> None:
        """Write the holder into the file that has just been locked. Raises OSError if the path no longer leads to it.

        The holder before may have unlinked it after we had opened it. The link count does not show that on NFS, where
        unlinking a file that this machine has open renames it.
        """
        self._signed = os.fstat(file)
        if not self._is_own():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: cannot be written ({error.strerror}); make it writable, free space, or choose another folder"
    )


def _holder(folder: Path) -> str:
    """Who holds the lock; empty if it has just been taken and is not signed yet, or has just been left."""
    try:
        return (folder / NAME).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
