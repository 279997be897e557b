"""Listening: at which address, under which names it is asked, and that it ends when it shall."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable

import uvicorn
from starlette.types import ASGIApp

from phalar.serve.guard import LOOPBACK, address_of, host_of

GRACE_S = 2.0
"""So long, when the server shall end, answers may take that have begun."""


class Server(uvicorn.Server):
    """Says when it really listens, and ends also where a client would keep it.

    Parameters
    ----------
    app : ASGI app
    ready : callable
        Called when it answers.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning"))
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end, but not wait for a client that neither sends nor reads on."""
        asyncio.get_running_loop().call_later(GRACE_S, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        # Each request then sees that its client has gone, and ends as if it had.
        for connection in self.server_state.connections:
            connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Take an address, so that `Server` can listen there.

    Raises
    ------
    ValueError
        It is none of this machine.
    OSError
        It is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(
            address[:2],
            family=family,
            dualstack_ipv6=is_everywhere(host) and family == socket.AF_INET6,
        )
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ValueError(
                f"--host {host}: not an address of this machine; 0.0.0.0 stands for all it has"
            ) from None
        why = os.strerror(error.errno or 0).lower()
        raise OSError(f"port {port} of {host}: {why}; name another with --port") from None


def is_everywhere(host: str) -> bool:
    """Whether a host stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def names(host: str, further: Iterable[str]) -> frozenset[str]:
    """List under which names a server may be asked, in lower case.

    Raises
    ------
    ValueError
        One is no name of a host: an address of a page, or with a port.
    """
    given = [("--name", name) for name in further]
    if not is_everywhere(host):
        given.append(("--host", host))
    return LOOPBACK | {_name(option, name) for option, name in given}


def _name(option: str, name: str) -> str:
    try:
        # As browsers ask for one that is not ASCII.
        name_there = address_of(name.encode("idna").decode().lower())
    except UnicodeError:
        name_there = ""
    url = f"//[{name_there}]" if ":" in name_there else f"//{name_there}"
    if not re.fullmatch(r"[\w.:-]+", name_there) or host_of(url) != name_there:
        raise ValueError(f"{option} {name}: must be a host's name or address, without a port")
    return name_there


def described(listening: socket.socket, host: str, hosts: frozenset[str]) -> tuple[str, str | None]:
    """Give the address to open, and what is to be said where other machines can ask."""
    address, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    if ipaddress.ip_address(address).is_loopback:
        return url, None
    asked_as = sorted(hosts) + ["any address of this machine"] * is_everywhere(host)
    return url, (
        f"at {host} every machine that reaches it can ask, as {', '.join(asked_as)}; --name adds "
        "another name of this machine"
    )
