"""What a night does, step by step: look what is new, run the line, ask the gate, push, report."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from dvc.repo import Repo

from flows import journal, repro
from phalar import gate, registry, runlog
from phalar.gate import Decision
from phalar.params import Params
from phalar.registry import champion

log = logging.getLogger("phalar.flows")

WEBHOOK = "PHALAR_WEBHOOK"
"""Environment variable: where a night's report is posted as JSON `{"text": ...}`."""
WEBHOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do."""

    stages: list[repro.Due]
    gate: bool
    """A challenger waits for a decision, as after a night that was killed."""
    remote: str | None
    """Where DVC pushes to."""

    @property
    def is_empty(self) -> bool:
        """Nothing is new."""
        return not self.stages and not self.gate

    def tell(self) -> str:
        """Say it in lines of text."""
        if self.is_empty:
            return "Nothing is new: nothing would run."
        lines = [f"dvc repro: {stage.name}, {stage.what}" for stage in self.stages]
        where = self.remote or "no remote is set, so nothing is pushed"
        return "\n".join([*lines, "gate: challenger against champion", f"dvc push: {where}"])


@dataclass(slots=True)
class Report:
    """How a night went."""

    outcome: str
    """`Nothing new`, `Promoted`, `Kept`, `Skipped` or `Failed`."""
    champion: str | None = None
    """At the end."""
    lines: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Write it for Prefect's page."""
        held = f"version {self.champion}" if self.champion else "none"
        rows = "\n".join(f"- {line}" for line in self.lines)
        return f"## {self.outcome}\n\nChampion: {held}\n\n{rows}\n"


def look(params: Params) -> Plan:
    """Find out what is due, without running anything."""
    remote = Repo().config["core"].get("remote")
    stages = repro.due(journal.read(params.paths.root / "journal.json"))
    return Plan(stages, _gate_waits(params), remote)


def _gate_waits(params: Params) -> bool:
    uri = _uri(params)
    if not Path(uri.removeprefix(runlog.SQLITE)).is_file() and uri.startswith(runlog.SQLITE):
        return False  # and looking makes no registry
    with registry.opened(uri) as client:
        return gate.is_due(client, params.register_.name)


def reproduce(params: Params) -> None:
    """Run the line; `RuntimeError` says which stage failed, and why."""
    started = time.time()
    if repro.reproduce() != 0:
        raise RuntimeError(repro.failure(journal.read(params.paths.root / "journal.json"), started))


def decide(params: Params) -> Decision | None:
    """Ask the gate."""
    return gate.run(params, params.paths)


def push() -> None:
    """Push the data to DVC's remote."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "push", "--quiet"],
        env=repro.environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise RuntimeError(f"dvc push failed: {last}")


def holder(params: Params) -> str | None:
    """Give the version that is champion."""
    with registry.opened(_uri(params)) as client:
        return champion.holder(client, params.register_.name, champion.CHAMPION)


def post(report: Report) -> None:
    """Post a report to the webhook, where there is one; that it fails must not fail the night."""
    url = os.environ.get(WEBHOOK)
    if not url:
        return
    text = f"phalar nightly: {report.outcome}. " + " ".join(report.lines)
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=WEBHOOK_S).close()
    except OSError as error:
        log.warning("%s: the report was not taken: %s", WEBHOOK, error)


def _uri(params: Params) -> str:
    return runlog.tracking_uri(params.tracking, params.paths.root.parent)
