"""Who may ask, and how much: host and origin of a request, its size, and what a page may load."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1"])

POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self'; frame-ancestors 'none'"
)
"""Nothing from elsewhere is loaded, so the page works without a network."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Let a request through to the app, or refuse it.

    A page of another site may send requests to this machine, also under a name of its own that
    it points here; so the name that was asked for, and the site that asks, have to be known ones.
    """

    app: ASGIApp
    hosts: frozenset[str]
    """Names under which this server may be asked for."""
    most_bytes: int
    """Of a request's body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = _host(f"//{headers.get('host', '')}")
        origin = headers.get("origin")
        if host not in self.hosts or (origin is not None and _host(origin) not in self.hosts):
            why = f"asked as {host!r} from {origin!r}; only {', '.join(sorted(self.hosts))} may"
            await JSONResponse({"detail": why}, 403)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            answer = JSONResponse({"detail": self._too_large}, 413, {"connection": "close"})
            await answer(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found["content-security-policy"] = POLICY
                found["x-content-type-options"] = "nosniff"
                found["referrer-policy"] = "no-referrer"
            await send(message)

        await self.app(scope, self._counted(receive), sent)

    def _counted(self, receive: Receive) -> Receive:
        """Count what comes in, because a request need not say its length."""
        done = 0

        async def counted() -> Message:
            nonlocal done
            message = await receive()
            done += len(message.get("body", b""))
            if done > self.most_bytes:
                # Raised within the app, whose answer it becomes.
                raise HTTPException(413, self._too_large)
            return message

        return counted

    @property
    def _too_large(self) -> str:
        return f"larger than {self.most_bytes >> 20} MB; send a shorter part, or FLAC or MP3"


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
