"""One file over HTTP into a .part beside its final name: resumed, retried, bounded, and one line when it fails."""

from __future__ import annotations

import errno
import fcntl
import http.client
import io
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import famba
from famba.errors import InputError

_CHUNK = 1 << 18
_TRY_LATER = {408, 425, 429}  # besides every 5xx
_HOPELESS = (ssl.SSLCertVerificationError, socket.gaierror, ConnectionRefusedError, FileNotFoundError)


class _InterruptedTransfer(Exception):
    """The transfer broke off; another attempt may go on from where it stopped."""


class Patience(NamedTuple):
    """With broken transfers only; a missing page, an unknown host or a bad certificate fails at once."""

    attempts: int = 4
    timeout: float = 30.0  # seconds without a byte
    pause: float = 1.0  # seconds before the second attempt, doubled before each further one


PATIENCE = Patience()


def download(url: str, file: io.FileIO, size: int | None = None, patience: Patience = PATIENCE) -> None:
    """Bring `url` into `file`, from `open_part`; goes on from what that holds already where the server supports ranges.

    size: bytes that the file must have, where known: a server that offers another size is refused before the transfer.
    Raises InputError. What was received stays in `file` after a broken transfer, for the next call to resume.
    """
    if not url.startswith(("http://", "https://", "file://")):
        raise InputError(f"{url}: expected a URL that starts with http://, https:// or file://")
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            return _transfer(url, file, size, patience.timeout)
        except _InterruptedTransfer as error:
            reason = str(error)
    have = file.seek(0, io.SEEK_END)
    held = f"; {file.name} keeps {have:,} bytes, run the command again to go on" if have else ""
    raise InputError(f"{url}: {reason}, {patience.attempts} attempts{held}")


@contextmanager
def open_part(part: Path) -> Iterator[io.FileIO]:
    """Open `part` to append: unbuffered, so that a full disk shows at the write, and locked against a second fetch."""
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = io.FileIO(part, "a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{part} is being written by another fetch: wait for that one to end") from error
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:  # nothing came: leave nothing behind
                part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failed write as one line. The network's own OSErrors must not come through here."""
    try:
        yield
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose a writable folder with --root"
        raise InputError(f"{path}: cannot be written: {error.strerror}; {advice}") from error


def _transfer(url: str, file: io.FileIO, size: int | None, timeout: float) -> None:
    """One attempt. Returns when the file is whole as far as the server tells; the checksum has the last word."""
    have = file.seek(0, io.SEEK_END)
    if size is not None and have >= size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": f"famba/{famba.__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            if have and not _resumes(response, have):
                have = 0
                file.truncate(0)  # opened for appending: the next write goes to the new end
            total = _total(response, have)
            if size is not None and total is not None and total != size:
                raise InputError(f"{url}: the server offers {total:,} bytes, expected {size:,}: not the published file")
            _receive(response, file, have, size if total is None else total)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing beyond what we hold: it is whole, or the checksum will say
            return
        failure = f"HTTP {error.code} {error.reason}"
        if error.code >= 500 or error.code in _TRY_LATER:
            raise _InterruptedTransfer(failure) from error
        raise InputError(f"{url}: {failure}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, _HOPELESS):
            raise InputError(f"{url}: {error.reason}") from error
        raise _InterruptedTransfer(str(error.reason)) from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _InterruptedTransfer(str(error) or type(error).__name__) from error


def _resumes(response: Any, have: int) -> bool:
    """Whether the server goes on at byte `have`; one that ignores ranges sends the whole file again with status 200."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _total(response: Any, have: int) -> int | None:
    """Length of the whole file, if the server tells."""
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None


def _receive(response: Any, file: io.FileIO, have: int, total: int | None) -> None:
    """Append the body to `file`, which holds `have` bytes, and refuse to go beyond `total`."""
    part = Path(os.fsdecode(file.name))
    if total is not None and total - have > shutil.disk_usage(part.parent).free:
        raise InputError(f"{part}: {total - have:,} more bytes do not fit on this disk; free some space")
    progress = _Progress(part.name.removesuffix(".part"), have, total)
    try:
        while chunk := response.read(_CHUNK):
            have += len(chunk)
            if total is not None and have > total:
                raise InputError(f"{response.url}: the server sends more than the {total:,} bytes expected")
            left = memoryview(chunk)
            with writing(part):
                while left:  # an unbuffered write may take less than it was given
                    left = left[file.write(left) :]
            progress.show(have)
    finally:
        progress.end()
    if total is not None and have < total:
        raise _InterruptedTransfer(f"the connection closed after {have:,} of {total:,} bytes")


class _Progress:
    """One line that rewrites itself, for a person at a terminal; silent anywhere else."""

    def __init__(self, name: str, have: int, total: int | None) -> None:
        self.name, self.first, self.total = name, have, total
        self.started = self.shown = time.monotonic()
        self.visible = sys.stderr.isatty()
        self.width = 0

    def show(self, have: int) -> None:
        now = time.monotonic()
        if not self.visible or (now - self.shown < 0.2 and have != self.total):
            return
        self.shown = now
        rate = (have - self.first) / max(now - self.started, 1e-3)
        line = f"{self.name}  {have / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s"
        if self.total:
            left = (self.total - have) / max(rate, 1.0)
            line = (
                f"{self.name}  {have / 1e6:.1f} of {self.total / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s  {left:.0f} s left"
            )
        self.width = max(self.width, len(line))
        print(f"\r{line:<{self.width}}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.width:
            print(file=sys.stderr)
