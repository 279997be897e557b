"""prefect.yaml deployed to a work pool: a real server and worker run the night, one at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from nights import Nights, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@contextmanager
def running(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with (folder.parent / f"{words[-1]}.log").open("wb") as output:
        child = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(timeout=300)


class Server:
    """The API of a Prefect server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, query: dict[str, Any] | None = None) -> Any:
        body = None if query is None else json.dumps(query).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def start(self, deployment: str) -> str:
        return str(self.ask(f"deployments/{deployment}/create_flow_run", {})["id"])

    def state(self, run: str) -> dict[str, str]:
        found: dict[str, str] = self.ask(f"flow_runs/{run}")["state"]
        return found

    def end(self, run: str) -> tuple[str, str, str]:
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_until(lambda: self.state(run)["type"] in ends)
        state = self.state(run)
        return state["type"], state["name"], state["message"]


def test_a_work_pool_runs_the_night_and_cancels_a_second(tmp_path) -> None:
    nights = Nights(tmp_path / "project")
    folder, here = nights.folder, str(Path(sys.executable).parent)
    plain = nights.line.environment | {
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with running([sys.executable, "-m", "flows.server"], folder, plain):
        note = wait_until(lambda: _read(folder / ".prefect/server.json"))
        server = Server(note["url"])
        wait_until(lambda: _answers(server))
        # The words of the README, and a pool that is there.
        environment = plain | {"PREFECT_API_URL": note["url"], "PHALAR_HOME": str(folder)}
        for words in (
            ["work-pool", "create", "phalar", "--type", "process"],
            ["deploy", "--all"],
        ):
            done = subprocess.run(
                [f"{here}/prefect", "--no-prompt", *words],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        deployment = server.ask("deployments/name/nightly/nightly")
        wanted = yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"][0]
        (schedule,) = deployment["schedules"]
        assert schedule["active"]
        assert schedule["schedule"]["cron"] == wanted["schedules"][0]["cron"]
        assert schedule["schedule"]["timezone"] == wanted["schedules"][0]["timezone"]
        # Elsewhere, so that the deployment alone says where the project lies.
        worker = [f"{here}/prefect", "worker", "start", "--pool", "phalar", "--name", "w"]
        with running(worker, tmp_path, environment):
            first = server.start(deployment["id"])
            wait_until(lambda: server.state(first)["type"] != "SCHEDULED")
            wait_until(lambda: server.state(first)["type"] != "PENDING")
            assert server.state(first)["type"] == "RUNNING", server.state(first)
            second = server.start(deployment["id"])
            kind, _, why = server.end(second)
            assert (kind, "concurrency limit reached" in why) == ("CANCELLED", True)
            kind, name, why = server.end(first)
            assert (kind, name) == ("COMPLETED", "Promoted"), why
            assert why.startswith("ran render, train, evaluate, register; ")
            assert nights.aliases() == {"champion": "1"}
            third = server.start(deployment["id"])
            assert server.end(third)[1] == "Nothing new"
    wait_until(nights.line.nothing_runs)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _answers(server: Server) -> bool:
    try:
        return bool(server.ask("health"))
    except OSError:
        return False
