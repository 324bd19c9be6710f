"""One file over HTTP into a .part beside its final name: resumed, retried, bounded, and one line when it fails."""

from __future__ import annotations

import errno
import fcntl
import http.client
import io
import os
import re
import shutil
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import famba
from famba.errors import InputError
from famba.files import open_regular
from famba.text import one_line

_CHUNK = 1 << 18
QUIET_S = 15.0  # at most, without a word of what is waited for
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


def download(
    url: str, file: io.FileIO, size: int | None = None, patience: Patience = PATIENCE, most: int = 1 << 40
) -> None:
    """Bring `url` into `file`, from `open_part`; goes on from what that holds already where the server supports ranges.

    size: bytes that the file must have, where known: a server that offers another size is refused before the transfer.
    most: bytes that it may have, where that is not known. While nothing comes, stderr says what is waited for.
    Raises InputError. What was received stays in `file` after a broken transfer, for the next call to resume.
    """
    if not url.startswith(("http://", "https://", "file://")):
        raise InputError(f"{url}: expected a URL that starts with http://, https:// or file://")
    progress = _Progress(url, Path(os.fsdecode(file.name)).name.removesuffix(".part"))
    reason = ""
    for attempt in range(patience.attempts):
        if attempt:
            progress.say(f"{url}: {reason}; attempt {attempt + 1} of {patience.attempts}")
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            with progress.watched():
                return _transfer(url, file, size, most, patience.timeout, progress)
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


def _transfer(url: str, file: io.FileIO, size: int | None, most: int, timeout: float, progress: _Progress) -> None:
    """One attempt. Returns when the file is whole as far as the server tells; the checksum has the last word."""
    have = file.seek(0, io.SEEK_END)
    if size is not None and have >= size:
        return
    try:
        if url.startswith("file:"):  # urllib would read a device to its end, which it may not have
            open_regular(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)).close()
        request = urllib.request.Request(url, headers={"User-Agent": f"famba/{famba.__version__}"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=timeout) as response:
            if have and not _resumes(response, have):
                have = 0
                file.truncate(0)  # opened for appending: the next write goes to the new end
            total = _total(response, have)
            if size is not None and total is not None and total != size:
                raise InputError(f"{url}: the server offers {total:,} bytes, expected {size:,}: not the published file")
            progress.start(have, size if total is None else total)
            _receive(response, file, have, size if total is None else total, most, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing beyond what we hold: it is whole, or the checksum will say
            return
        failure = f"HTTP {error.code} {error.reason}"
        if error.code >= 500 or error.code in _TRY_LATER:
            raise _InterruptedTransfer(failure) from error
        raise InputError(f"{url}: {failure}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, (str, *_HOPELESS)):  # a text is urllib's own, such as "no host given"
            raise InputError(f"{url}: {error.reason}") from error
        raise _InterruptedTransfer(str(error.reason)) from error
    except (ValueError, http.client.InvalidURL) as error:  # its own, or that of a redirect
        raise InputError(f"{url}: it, or the URL that it leads to, is not one ({error})") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _InterruptedTransfer(str(error) or type(error).__name__) from error
    except OSError as error:  # writing has its own message
        reason = error.strerror or str(error)
        if url.startswith("file:"):
            raise InputError(f"{url}: cannot be read ({reason})") from error
        raise _InterruptedTransfer(reason) from error


def _resumes(response: Any, have: int) -> bool:
    """Whether the server goes on at byte `have`; one that ignores ranges sends the whole file again with status 200."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _total(response: Any, have: int) -> int | None:
    """Length of the whole file, if the server tells."""
    length = response.headers.get("Content-Length", "")
    return have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _receive(response: Any, file: io.FileIO, have: int, total: int | None, most: int, progress: _Progress) -> None:
    """Append the body to `file`, which holds `have` bytes, and refuse to go beyond `total`, or `most` without it."""
    part = Path(os.fsdecode(file.name))
    if total is not None and total > most:
        raise InputError(f"{response.url}: the server offers {total:,} bytes, and {most:,} are taken at most")
    if total is not None and total - have > shutil.disk_usage(part.parent).free:
        raise InputError(f"{part}: {total - have:,} more bytes do not fit on this disk; free some space")
    while chunk := response.read1(_CHUNK):
        have += len(chunk)
        if have > (most if total is None else total):
            file.truncate(0)
            expected = (
                f"the {total:,} bytes expected" if total is not None else f"{most:,} bytes, the most that is taken"
            )
            raise InputError(f"{response.url}: the server sends more than {expected}")
        left = memoryview(chunk)
        with writing(part):
            while left:  # an unbuffered write may take less than it was given
                left = left[file.write(left) :]
        progress.show(have)
    if total is not None and have < total:
        raise _InterruptedTransfer(f"the connection closed after {have:,} of {total:,} bytes")


class _Progress:
    """What a person sees while it lasts: at a terminal a line that rewrites itself, and a word where nothing comes."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._visible = sys.stderr.isatty()
        self._width = 0
        self._have = self._first = 0
        self._total: int | None = None
        self._began = self._shown = time.monotonic()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Says every `QUIET_S` inside what is waited for, unless a line at a terminal shows that bytes come."""
        over = threading.Event()

        def watch() -> None:
            before = -1
            while not over.wait(QUIET_S):
                if not self._visible or self._have == before:
                    of = f" of {self._total:,}" if self._total else ""
                    self.say(f"waiting for {self._url}: {self._have:,}{of} bytes so far")
                before = self._have

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if self._width:
                print(file=sys.stderr)
                self._width = 0

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"{chr(10) if self._width else ''}{one_line(text)}", file=sys.stderr, flush=True)
        self._width = 0

    def start(self, have: int, total: int | None) -> None:
        """The server has answered: `have` bytes are here already, `total` there will be."""
        self._have = self._first = have
        self._total = total
        self._began = self._shown = time.monotonic()

    def show(self, have: int) -> None:
        """So many bytes are here now."""
        self._have = have
        now = time.monotonic()
        if not self._visible or (now - self._shown < 0.2 and have != self._total):
            return
        self._shown = now
        rate = (have - self._first) / max(now - self._began, 1e-3)
        done = f"{self._name}  {have / 1e6:.1f}"
        line = f"{done} MB  {rate / 1e6:.1f} MB/s"
        if self._total:
            left = (self._total - have) / max(rate, 1.0)
            line = f"{done} of {self._total / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s  {left:.0f} s left"
        self._width = max(self._width, len(line))
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
