"""Nights on a schedule: a real Prefect server and scheduler, a tiny line, and what each leaves."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from tiny_line import Line

from flows import night, repro

PATIENCE_S = 1500.0
"""For a night on a busy machine; a tick of the schedule alone takes a minute."""

WHO = ("-c", "user.name=a", "-c", "user.email=a@b.c")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Nights:
    """A line under `flows.nightly --serve`, with a schedule of a night a minute."""

    def __init__(self, folder: Path) -> None:
        self.line = Line(folder)
        self.folder = folder
        self.line.change(lambda values: values["register"].update(gate_times_chance=0.0))
        self.line.succeed(
            "dvc", "remote", "add", "--default", "store", str(folder.parent / "store")
        )
        self.line.succeed("dvc", "repro", "download@chorales", "download@bands")
        self.all_bands = folder.parent / "bands"
        shutil.copytree(folder / "data/download/bands", self.all_bands)
        self.line.keep_few_scores()
        self.commit()

    def commit(self) -> None:
        for words in (("add", "--all", "."), (*WHO, "commit", "--quiet", "--message", "a state")):
            subprocess.run(["git", *words], cwd=self.folder, check=True)

    @contextmanager
    def between_nights(self) -> Iterator[None]:
        """Keep nights from starting while something is changed."""
        with (self.folder / repro.LOCK).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def serve(self, printed: Path) -> subprocess.Popen[bytes]:
        """Start the schedule: a night a minute."""
        words = ["--serve", "--cron", "* * * * *", "--timezone", "Asia/Tokyo"]
        return subprocess.Popen(
            [sys.executable, "-m", "flows.nightly", *words],
            cwd=self.folder,
            env=self.line.environment,
            stdout=printed.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def runs(self) -> list[dict[str, Any]]:
        """All nights that have ended, as the server tells of them."""
        note = json.loads((self.folder / ".prefect/server.json").read_text())
        query = {"sort": "START_TIME_ASC", "flows": {"name": {"any_": ["nightly"]}}}
        request = urllib.request.Request(
            f"{note['url']}/flow_runs/filter",
            json.dumps(query).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)
        except urllib.error.URLError:  # it starts still
            return []
        return [run["state"] for run in found if run["state"]["type"] in ENDED]

    def wait_for(self, name: str, since: int) -> str:
        """Wait for a night that ends so, after so many others; give its message."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for state in self.runs()[since:]:
                if state["name"] == name:
                    return str(state["message"])
            time.sleep(1)
        raise AssertionError(f"no night ended as {name}: {self.runs()}")

    def aliases(self) -> dict[str, str]:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        found = client.get_registered_model("phalar").aliases
        return {alias: str(version) for alias, version in found.items()}

    def phalar(self, *words: str) -> Any:
        """Run the command; give what it prints as JSON."""
        return json.loads(self.line.succeed("phalar.cli", *words, "--json"))

    def add_tracks(self) -> None:
        """Let two more scores of `bands` arrive."""
        folder = self.folder / "data/download/bands"
        path = folder / "receipt.json"
        receipt = json.loads(path.read_text())
        there = {file["path"] for file in receipt["files"]}
        files = json.loads((self.all_bands / "receipt.json").read_text())["files"]
        new = [file for file in files if file["path"] not in there][:2]
        for file in new:
            shutil.copy(self.all_bands / file["path"], folder / file["path"])
        path.unlink()  # a link into DVC's cache
        path.write_text(json.dumps({**receipt, "files": receipt["files"] + new}))
        self.line.succeed("dvc", "commit", "--quiet", "--force", "download@bands")


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_nights_in_a_row(tmp_path) -> None:
    nights = Nights(tmp_path / "project")
    line = nights.line
    printed = line.succeed("flows.nightly", "--dry-run")
    assert "dvc repro: train, weights" in printed
    assert not (nights.folder / "mlflow.db").exists()
    serve = nights.serve(tmp_path / "printed")
    try:
        wait_until(lambda: (nights.folder / ".prefect/server.json").exists())
        message = nights.wait_for("Promoted", 0)
        assert "pushed to store" in message
        assert nights.aliases() == {"champion": "1"}
        assert any((tmp_path / "store").rglob("*"))

        nights.wait_for("Nothing new", 0)
        with nights.between_nights():
            before = len(nights.runs())
            nights.wait_for("Skipped", before)
            nights.add_tracks()
            line.change(lambda values: values["register"]["promote"].update(gain=1.0, loss=1.0))
            nights.commit()
            before = len(nights.runs())
        message = nights.wait_for("Kept", before)
        assert "nowhere surely better by more than 100" in message
        assert nights.aliases() == {"champion": "1", "challenger": "2"}

        with nights.between_nights():
            chain = nights.phalar("lineage", "phalar/1")
            gone = next(t for t in chain["tracks"] if t["split"] == "train")
            name = f"{gone['source']}/{gone['track']}"
            done = nights.phalar("withdraw", name, "--reason", "the artist asked")
            assert {m["model"] for m in done["models"]} == {"phalar/1", "phalar/2"}
            nights.commit()
            before = len(nights.runs())
        message = nights.wait_for("Promoted", before)
        assert "champion 1 was trained on a withdrawn track" in message
        assert nights.aliases() == {"champion": "3"}

        with nights.between_nights():
            line.change(lambda values: values["register"].update(gate_times_chance=1000.0))
            before = len(nights.runs())
        message = nights.wait_for("Failed", before)
        assert "register: gate: " in message
        assert nights.aliases() == {"champion": "3"}
    finally:
        serve.send_signal(signal.SIGINT)
        serve.wait(timeout=300)
    wait_until(line.nothing_runs)

    who = nights.phalar("lineage", "--track", name)
    assert [place["name"] for place in who["places"]] == ["phalar/1", "phalar/2"]
    assert (who["searched"], who["unknown"]) == (3, [])
    assert nights.phalar("lineage", "phalar@champion", "--verify")["counts"].get("wrong", 0) == 0
    verified = line.run("phalar.cli", "lineage", "phalar/1", "--verify", "--json")
    wrong = [c for c in json.loads(verified.stdout)["checks"] if c["state"] == "wrong"]
    assert (verified.returncode, [c["link"] for c in wrong]) == (1, ["withdrawn"])


def wait_until(what: Any) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_a_report_is_posted_and_a_deaf_webhook_fails_no_night(monkeypatch, caplog) -> None:
    heard = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    report = night.Report("Failed", lines=["render: the disk is full"])
    night.post(report)
    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv(night.WEBHOOK, f"http://127.0.0.1:{server.server_port}")
        night.post(report)
    assert heard == [{"text": "phalar nightly: Failed. render: the disk is full"}]
    night.post(report)
    assert "the report was not taken" in caplog.text


def test_a_plan_says_what_would_run() -> None:
    assert night.Plan([], gate=False, remote="store").is_empty
    waiting = night.Plan([], gate=True, remote=None)
    assert not waiting.is_empty
    assert waiting.tell().splitlines() == [
        "gate: challenger against champion",
        "dvc push: no remote is set, so nothing is pushed",
    ]


def test_a_wrong_schedule_is_wrong_use(tmp_path) -> None:
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    for words, why in (
        (["--cron", "at two"], "at two"),
        (["--timezone", "Mars/Base"], "Mars/Base"),
        (["--params", "other.yaml"], "other.yaml: no such file"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "flows.nightly", "--serve", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_work_pool_is_told_what_serving_does() -> None:
    deployment = yaml.safe_load((Path(__file__).parents[1] / "prefect.yaml").read_text())
    (nightly,) = deployment["deployments"]
    assert nightly["entrypoint"] == "flows/nightly.py:nightly"
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert nightly["schedules"][0]["timezone"]
