"""A web server for tests that serves files with Range, and misbehaves when it is told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What lies there, and what happens to the next requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """For each path what is done to its next requests; afterwards all is well.

    `cut`: half of it, then the connection ends. `503`, `404`, ... : that answer. `lie`: wrong
    bytes. `ignore`: everything, whatever range was asked for. `stall`: half of it, then nothing.
    `other range`: other bytes than asked for, and says so. `nameless`: no ETag.
    """
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""
    url: str = ""


@contextmanager
def serve() -> Iterator[Site]:
    site, ended = Site(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            asked = self.headers.get("Range")
            site.asked.append((path, asked))
            fault = site.faults[path].pop(0) if site.faults.get(path) else ""
            if fault.isdigit() or path not in site.files:
                self.send_response(int(fault or 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with suppress(BrokenPipeError, ConnectionResetError):  # a client may hang up
                self._send(site.files[path], asked, fault)

        def _send(self, content: bytes, asked: str | None, fault: str) -> None:
            etag = f'"{hash(content)}"'
            found = re.fullmatch(r"bytes=(\d+)-", asked or "")
            is_range = found and self.headers.get("If-Range", etag) == etag and fault != "ignore"
            start = int(found[1]) if found and is_range else 0
            if fault == "other range":
                start //= 2
            body = content[start:]
            self.send_response(206 if is_range else 200)
            if is_range:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            if fault != "nameless":
                self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "lie":
                body = bytes(len(body))
            if fault in ("cut", "stall"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "stall":
                    ended.wait(20)
                self.close_connection = True
                return
            # In pieces, so that a kill finds something on its way.
            for first in range(0, len(body), 1 << 16):
                self.wfile.write(body[first : first + (1 << 16)])
                if fault == "slow":
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
