"""One training at a time in a cell's folder.

The lock is the kernel's (filelock: flock) and goes with the process, however that ends, kill -9 and a power cut
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from famba.errors import InputError

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the context; folders that are made for it and stay empty go with it.

    Raises InputError, with who holds it, if another process does.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / NAME, blocking=False, fallback_to_soft=False, on_acquired=_sign)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder}: another training is at work here ({_holder(folder)}); wait for it, or stop it and run this "
            "again, which goes on where it stopped"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); free or choose another folder") from None
        print(f"{folder}: no locks on this file system: start no second training here", file=sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / NAME).unlink()  # still locked: filelock refuses a lock whose file is gone
        lock.release()
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _sign(file: int) -> None:
    """Write the holder into the file that has just been locked."""
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())


def _holder(folder: Path) -> str:
    try:
        return (folder / NAME).read_text(encoding="utf-8", errors="replace").strip() or "it has only just begun"
    except OSError:
        return "it has only just ended"
