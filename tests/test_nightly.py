"""Nights on a schedule: a real Prefect server and scheduler, a tiny line, and what each leaves."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from nights import Nights, wait_until

from flows import night, repro


@contextmanager
def schedule(nights: Nights, printed: Path) -> Iterator[None]:
    """Serve a night a minute, by the words of the README."""
    words = ["--serve", "--cron", "* * * * *", "--timezone", "Asia/Tokyo"]
    with printed.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.nightly", *words],
            cwd=nights.folder,
            env=nights.line.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(timeout=300)


def wait_for(nights: Nights, name: str, since: int) -> str:
    """Wait for a night that ends so, after so many others; give its message."""
    found = wait_until(lambda: [why for _, how, why in nights.states()[since:] if how == name])
    return str(found[0])


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_nights_in_a_row(tmp_path) -> None:
    nights = Nights(tmp_path / "project")
    line = nights.line

    nights.ruin_the_recipe()
    nights.commit()
    printed = line.succeed("flows.nightly", "--dry-run")
    assert "dvc repro: train, weights" in printed
    assert not (nights.folder / "mlflow.db").exists()
    with schedule(nights, tmp_path / "printed"):
        message = wait_for(nights, "Promoted", 0)
        assert message.endswith("there is no challenger to decide about; pushed to store")
        assert nights.aliases() == {"champion": "1"}
        assert any(nights.store.rglob("*"))

        wait_for(nights, "Nothing new", 0)
        with nights.between_nights():
            wait_for(nights, "Skipped", 0)
            # New songs, and a recipe that learns: better, by its answers to the same trials.
            nights.add_songs("train", 2)
            nights.mend_the_recipe()
            nights.commit()
            before = len(nights.states())
        message = wait_for(nights, "Promoted", before)
        assert message.startswith("ran download@folder, prepare@folder, render, train, ")
        assert "phalar/2 is champion now: surely better: folder paper K = 4" in message
        assert "| folder | paper | 4 |" in nights.artifacts()[-1]
        assert nights.aliases() == {"champion": "2"}

        with nights.between_nights():
            nights.add_songs("train", 1)
            nights.ruin_the_recipe()
            nights.commit()
            before = len(nights.states())
        message = wait_for(nights, "Kept", before)
        assert "phalar/3 is not promoted: worse by more than 2 points: folder paper" in message
        assert nights.aliases() == {"champion": "2", "challenger": "3"}

        with nights.between_nights():
            chain = nights.phalar("lineage", "phalar/2")
            gone = next(t for t in chain["tracks"] if t["split"] == "train")
            name = f"{gone['source']}/{gone['track']}"
            done = nights.phalar("withdraw", name, "--reason", "the artist asked")
            marked = {(model["model"], model["verdict"]) for model in done["models"]}
            assert marked == {(f"phalar/{n}", "must be trained again") for n in (1, 2, 3)}
            nights.commit()
            before = len(nights.states())
        message = wait_for(nights, "Promoted", before)
        assert "champion 2 was trained on a withdrawn track" in message
        assert nights.aliases() == {"champion": "4"}

        with nights.between_nights():
            nights.change(lambda values: values["register"].update(gate_times_chance=1000.0))
            before = len(nights.states())
        message = wait_for(nights, "Failed", before)
        assert "register: gate: " in message
        assert nights.aliases() == {"champion": "4"}
    wait_until(line.nothing_runs)

    who = nights.phalar("lineage", "--track", name)
    assert [place["name"] for place in who["places"]] == ["phalar/1", "phalar/2", "phalar/3"]
    assert (who["searched"], who["unknown"]) == (4, [])
    assert nights.phalar("lineage", "phalar@champion", "--verify")["counts"].get("wrong", 0) == 0
    for old in (1, 2, 3):
        verified = line.run("phalar.cli", "lineage", f"phalar/{old}", "--verify", "--json")
        wrong = [c for c in json.loads(verified.stdout)["checks"] if c["state"] == "wrong"]
        assert (verified.returncode, [c["link"] for c in wrong]) == (1, ["withdrawn"])


def test_a_report_is_posted_and_a_bad_webhook_fails_no_night(monkeypatch, caplog) -> None:
    """It takes it; then it is down, talks nonsense, drips for ever, and is no address."""
    heard, nonsense = [], ["HTTP/1.1 204 No Content\r\n\r\n"]

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if said := nonsense.pop():
                self.wfile.write(said.encode())
                return
            for _ in range(100):
                self.wfile.write(b"H")
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    report = night.Report("Failed", lines=["render: the disk is full"])
    night.post(report)
    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(night.WEBHOOK, f"http://127.0.0.1:{server.server_port}")
        night.post(report)
        assert heard == [{"text": "phalar nightly: Failed. render: the disk is full"}]
        assert not caplog.records
        nonsense.append("it was nice to hear from you\r\n")
        night.post(report)
        assert "the report was not taken: it was nice" in caplog.text
        nonsense.append("")
        monkeypatch.setattr(night, "WEBHOOK_S", 0.5)
        night.post(report)
        assert "PHALAR_WEBHOOK: no answer within 0.5 s" in caplog.text
        server.shutdown()
    for address, why in (
        (f"http://127.0.0.1:{server.server_port}", "refused"),
        ("no address", "unknown url type"),
    ):
        monkeypatch.setenv(night.WEBHOOK, address)
        night.post(report)
        assert re.search(f"the report was not taken: .*{why}", caplog.text)


def test_a_plan_says_what_would_run() -> None:
    assert night.Plan([], gate=False, remote="store").is_empty
    waiting = night.Plan([], gate=True, remote=None)
    assert not waiting.is_empty
    assert waiting.tell().splitlines() == [
        "gate: challenger against champion",
        "dvc push: no remote is set, so nothing is pushed",
    ]
    late = night.Plan([], gate=False, remote="store", push=True)
    assert (late.is_empty, late.tell()) == (False, "dvc push: store")
    due = repro.Due("train", "weights", 1.0)
    untidy = night.Plan([due], gate=False, remote="store", dirty=True).tell().splitlines()
    assert untidy[0] == "dvc repro: train, weights"
    assert untidy[-1].startswith("git: the tree is dirty")


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
