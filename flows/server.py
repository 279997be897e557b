"""A local Prefect server: `python -m flows.server` shows the recorded runs in a browser."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import process

HOME = Path(".prefect")
NOTE = HOME / "server.json"
"""Address and process of the server that runs, where the stages look for it."""
USUAL_PORT = 4200
START_S = 120.0
"""A server that does not answer by then is given up; the very first start makes its database."""

SETTINGS = {
    "PREFECT_HOME": str(HOME.absolute()),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # On disk: a night that was killed together with the server must not hold its place for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "DO_NOT_TRACK": "1",
}


def find() -> str | None:
    """Return the address of a server that answers: PREFECT_API_URL, else the local one.

    A local server that was started a moment ago is waited for, so that no stage goes unrecorded.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url if _answers(url) else None
    while note := _read_note():
        if _answers(note["url"]):
            return str(note["url"])
        if time.time() - NOTE.stat().st_mtime > START_S:
            return None
        time.sleep(0.1)
    return None


def _answers(url: str) -> bool:
    """Ask a server for its health, for a second at most."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0):
            return True
    except urllib.error.HTTPError as refusal:
        return refusal.code < 500  # one that wants a key to tell its health is there
    except OSError:
        return False


def _read_note() -> dict[str, Any] | None:
    """Return what the local server wrote down, unless it is gone."""
    with suppress(FileNotFoundError, json.JSONDecodeError):
        note = json.loads(NOTE.read_text())
        if process.is_running(note["pid"]):
            return dict(note)
    return None


@contextmanager
def background() -> Iterator[None]:
    """Have a local server while the block runs; it starts beside the first stage."""
    if os.environ.get("PHALAR_ORCHESTRATOR") == "none" or find():
        yield
        return
    HOME.mkdir(exist_ok=True)
    with (HOME / "server.log").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.server", "--while", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the stages; the server records how they end
        )
    try:
        while child.poll() is None and not _read_note():
            time.sleep(0.02)
        if note := _read_note():
            page = note["url"].removesuffix("/api")
            print(f"Prefect shows the line at {page} while it runs\n", flush=True)
        yield
    finally:
        process.stop(child)


def _free_port() -> int:
    """Return the port people expect Prefect at, or any other where that is taken."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1 for the Prefect server")


def main() -> None:
    """Serve until Ctrl-C, or until the process given with `--while` is gone."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("--while", dest="owner", type=int, metavar="PID", help="end with this one")
    owner = parser.parse_args().owner
    process.interrupt_on_signals()
    if owner:
        process.end_with(owner)
    elif url := find():
        print(f"Prefect is at {url.removesuffix('/api')} already")
        return
    port = _free_port()
    HOME.mkdir(exist_ok=True)
    NOTE.write_text(json.dumps({"url": f"http://127.0.0.1:{port}/api", "pid": os.getpid()}))
    # The pages ask the settings where the API is.
    os.environ.update(SETTINGS, PREFECT_SERVER_API_PORT=str(port))
    print(f"Prefect is at http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    import uvicorn

    try:
        uvicorn.run(
            "prefect.server.api.server:create_app",
            factory=True,
            host="127.0.0.1",
            port=port,
            log_level="warning",
        )
    finally:
        NOTE.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
