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
from http.client import HTTPException
from pathlib import Path
from threading import Thread

from dvc.repo import Repo

from flows import arrivals, journal, repro
from phalar import gate, registry, runlog
from phalar.evaluate.compare import Comparison
from phalar.gate import Decision
from phalar.params import Params
from phalar.registry import champion

log = logging.getLogger("phalar.flows")

WEBHOOK = "PHALAR_WEBHOOK"
"""Environment variable: where a night's report is posted as JSON `{"text": ...}`."""
WEBHOOK_S = 10.0
PUSHED = Path(".dvc/tmp/pushed")
"""Which remote has the data of which dvc.lock, by its SHA-256."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do."""

    stages: list[repro.Due]
    gate: bool
    """A challenger waits for a decision, as after a night that was killed."""
    remote: str | None
    """Where DVC pushes to."""
    push: bool = False
    """The remote lacks what is here, as after a push that failed."""
    dirty: bool = False
    """The tree is not that of a commit."""

    @property
    def is_empty(self) -> bool:
        """Nothing is new."""
        return not (self.stages or self.gate or self.push)

    @property
    def decides(self) -> bool:
        """The gate is asked."""
        return bool(self.stages) or self.gate

    def tell(self) -> str:
        """Say it in lines of text."""
        if self.is_empty:
            return "Nothing is new: nothing would run."
        lines = [f"dvc repro: {stage.name}, {stage.what}" for stage in self.stages]
        if self.decides:
            lines.append("gate: challenger against champion")
        lines.append(f"dvc push: {self.remote or 'no remote is set, so nothing is pushed'}")
        if self.stages and self.dirty:
            lines.append("git: the tree is dirty, so what is trained cannot be champion; commit")
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """How a night went."""

    outcome: str
    """`Nothing new`, `Promoted`, `Kept`, `Skipped` or `Failed`."""
    champion: str | None = None
    """At the end."""
    lines: list[str] = field(default_factory=list)
    figures: list[Comparison] = field(default_factory=list)
    """What the gate decided by."""

    def markdown(self) -> str:
        """Write it for Prefect's page."""
        held = f"version {self.champion}" if self.champion else "none"
        rows = "\n".join(f"- {line}" for line in self.lines)
        text = f"## {self.outcome}\n\nChampion: {held}\n\n{rows}\n"
        return f"{text}\n{_table(self.figures)}" if self.figures else text


def _table(figures: list[Comparison]) -> str:
    """Lay the gate's figures out, in percent."""
    names = ["source", "protocol", "K", "challenger", "champion", "difference", "95 % interval"]
    names += ["p", "songs"]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for c in figures:
        shares = [f"{100 * c.a:.1f}", f"{100 * c.b:.1f}", f"{100 * c.difference:+.1f}"]
        interval = f"{100 * c.low:+.1f} to {100 * c.high:+.1f}"
        cells = [c.source, c.protocol, str(c.candidates), *shares, interval, f"{c.p:.3g}"]
        rows.append(f"| {' | '.join([*cells, str(c.songs)])} |")
    return "\n".join(rows) + "\n"


def look(params: Params) -> Plan:
    """Find out what is due, without running anything."""
    remote = Repo().config["core"].get("remote")
    last = journal.read(params.paths.root / "journal.json")
    stages = repro.due(last, arrivals.stages(params))
    push_waits = remote is not None and _on_remote(remote) != _pushed()
    dirty = runlog.git_facts(Path(), repro.PARAMS).dirty
    return Plan(stages, _gate_waits(params), remote, push_waits, dirty)


def _on_remote(remote: str) -> str:
    """What the note of a push to a remote would say now."""
    lock = Path("dvc.lock")
    return f"{remote} {runlog.file_sha256(lock)}" if lock.is_file() else ""


def _pushed() -> str:
    return PUSHED.read_text() if PUSHED.is_file() else ""


def _gate_waits(params: Params) -> bool:
    uri = _uri(params)
    if not Path(uri.removeprefix(runlog.SQLITE)).is_file() and uri.startswith(runlog.SQLITE):
        return False  # and looking makes no registry
    with registry.opened(uri) as client:
        return gate.is_due(client, params.register_.name)


def reproduce(params: Params) -> None:
    """Run the line; `RuntimeError` says which stage failed, and why."""
    started = time.time()
    arrivals.take_in(params)
    if repro.reproduce() != 0:
        raise RuntimeError(repro.failure(journal.read(params.paths.root / "journal.json"), started))


def decide(params: Params) -> Decision | None:
    """Ask the gate."""
    return gate.run(params, params.paths)


def push(remote: str) -> None:
    """Push the data to DVC's remote, and note that; what fails is due again the next night."""
    note = _on_remote(remote)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "push"],
        env=repro.environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        # DVC ends with an offer of help, which is not the reason.
        said = [
            line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if "ERROR" in line
        ]
        why = said[-1] if said else "without a word"
        raise RuntimeError(f"dvc push to {remote} failed: {why}; the next night tries again")
    PUSHED.write_text(note)


def holder(params: Params) -> str | None:
    """Give the version that is champion."""
    with registry.opened(_uri(params)) as client:
        return champion.holder(client, params.register_.name, champion.CHAMPION)


def post(report: Report) -> None:
    """Post a report to the webhook, where there is one; that it fails must not fail the night."""
    url = os.environ.get(WEBHOOK)
    if not url:
        return
    # A thread: a server that sends a byte now and then would never be too late for its socket.
    poster = Thread(target=_post, args=(url, report), daemon=True, name="webhook")
    poster.start()
    poster.join(WEBHOOK_S)
    if poster.is_alive():
        log.warning("%s: no answer within %g s", WEBHOOK, WEBHOOK_S)


def _post(url: str, report: Report) -> None:
    text = f"phalar nightly: {report.outcome}. " + " ".join(report.lines)
    body = json.dumps({"text": text}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=WEBHOOK_S).close()
    except (OSError, HTTPException, ValueError) as error:
        log.warning("%s: the report was not taken: %s", WEBHOOK, error)


def _uri(params: Params) -> str:
    return runlog.tracking_uri(params.tracking, params.paths.root.parent)
