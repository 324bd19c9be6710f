"""A real HTTP server on the loopback interface, which can be made to misbehave."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves the files of a folder and keeps a list of the ranges asked for; the fields make it misbehave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str | None] = []  # the Range header of each request
        self.ranges = True
        self.cut: list[int] = []  # bytes after which the next transfers break off
        self.statuses: list[int] = []  # answers to the next requests
        self.length = True  # send a Content-Length
        self.location = ""  # redirect there
        self.silent = 0.0  # seconds before the next answer
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        path = self.server.folder / self.path.strip("/")
        status = self.server.statuses.pop(0) if self.server.statuses else 200 if path.exists() else 404
        if status != 200:
            self.send_error(status)
            return
        if self.server.location:
            self.send_response(302)
            self.send_header("Location", self.server.location)
            self.end_headers()
            return
        time.sleep(self.server.silent)
        content = path.read_bytes()
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut.pop(0) if self.server.cut else None])

    def log_message(self, *_: object) -> None:
        """Quiet."""
