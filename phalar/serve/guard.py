"""Who may ask, and how much: host and origin of a request, its size, and what a page may load."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1"])

HEADERS = {
    # Nothing from elsewhere is loaded, so the page works without a network.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; script-src 'self'; frame-ancestors 'none'"
    ),
    # Whether a sound loads would tell another site what is in the library.
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of every answer, refusals included."""

OWN_SITE = ("same-origin", "none")
"""What a browser says of requests of the page itself, and of an address that was typed."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Let a request through to the app, or refuse it.

    A page of another site may send requests to this machine, also under a name of its own that
    it points here; so the name that was asked for, and the site that asks, have to be known ones.
    """

    app: ASGIApp
    hosts: frozenset[str]
    """Names under which this server may be asked for."""
    own_address: bool
    """Whether it may also be asked for by the address that a connection came in at: a site can
    point a name here, but it cannot make an address its own."""
    most_bytes: int
    """Of a request's body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found.update(HEADERS)
                # The modules of the page belong together, also after an upgrade.
                found.setdefault("cache-control", "no-cache")
            await send(message)

        headers = Headers(scope=scope)
        if why := self._not_allowed(scope, headers):
            await JSONResponse({"detail": why}, 403)(scope, receive, sent)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            answer = JSONResponse({"detail": self._too_large}, 413, {"connection": "close"})
            await answer(scope, receive, sent)
            return
        await self.app(scope, self._counted(receive), sent)

    def _not_allowed(self, scope: Scope, headers: Headers) -> str | None:
        """Say why a request may not be answered; None where it may."""
        hosts = frozenset(name.lower() for name in self.hosts)
        if self.own_address and scope.get("server"):
            hosts |= {address_of(scope["server"][0])}
        host, origin = host_of(f"//{headers.get('host', '')}"), headers.get("origin")
        if host not in hosts or (origin is not None and host_of(origin) not in hosts):
            names = ", ".join(sorted(hosts))
            return f"asked as {host!r} from {origin!r}; only {names} may, --name adds another"
        site = headers.get("sec-fetch-site", "none")
        if scope["path"].startswith("/api") and site not in OWN_SITE:
            return f"asked by a page of another site ({site}); only the page of this server may"
        return None

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


def host_of(url: str) -> str | None:
    """Give the host of an address in lower case; None where there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def address_of(text: str) -> str:
    """Give an IP address as it is asked for: one of version 4 that came as 6 as what it is."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(found, "ipv4_mapped", None) or found)
