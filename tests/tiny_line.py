"""A copy of the tree in which the whole line takes a minute, run as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows import journal

ROOT = Path(__file__).parents[1]
KEPT_FILES = 20
"""Scores of each source that stay: enough songs for every split."""
PATIENCE_S = 300.0
"""For what must come; long, since other tests use the cores at the same time."""


class Line:
    """A clone of the working tree, without commits and without a git identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = ""
        self.first_outs: dict[str, str] = {}
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # A link stays one: a source's needs are links to modules.
                shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self.change(_shrink)

    @property
    def environment(self) -> dict[str, str]:
        here = str(Path(sys.executable).parent)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PHALAR_"))}
        return {
            **clean,
            "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def start(self, *words: str, **changes: str) -> subprocess.Popen[str]:
        """Start `python -m ...` in the clone."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env={**self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m ...` in the clone to its end."""
        child = self.start(*words, **changes)
        out, err = child.communicate()
        return subprocess.CompletedProcess(words, child.returncode, out, err)

    def succeed(self, *words: str, **changes: str) -> str:
        """Run what must end well; return what it printed."""
        done = self.run(*words, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def finish(self) -> None:
        """Run the line to its end, and keep what it printed and made."""
        self.printed = self.succeed("flows.repro")
        self.first_outs = self.outs()

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Edit params.yaml."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        edit(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def keep_few_scores(self) -> None:
        """Cut what was downloaded, as if the sources were small."""
        for source in ("chorales", "bands"):
            folder = self.folder / "data/download" / source
            receipt = json.loads((folder / "receipt.json").read_text())
            files = receipt["files"]
            kept = files[:: len(files) // KEPT_FILES][:KEPT_FILES]
            for file in files:
                if file not in kept:
                    (folder / file["path"]).unlink()
            (folder / "receipt.json").write_text(json.dumps({**receipt, "files": kept}))
            self.succeed("dvc", "commit", "--quiet", "--force", f"download@{source}")

    def journal(self) -> dict[str, journal.Entry]:
        return journal.read(self.folder / "data/journal.json")

    def ran_since(self, before: dict[str, journal.Entry]) -> set[str]:
        """Stages that ran after an earlier look into the journal."""
        return {stage for stage, entry in self.journal().items() if entry != before.get(stage)}

    def outs(self) -> dict[str, str]:
        """Hash of each output in dvc.lock."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {out["path"]: out["md5"] for s in lock["stages"].values() for out in s["outs"]}

    def processes(self) -> list[psutil.Process]:
        """All processes that run in the clone."""
        found = []
        for process in psutil.process_iter(["cwd", "status"]):
            cwd, status = process.info["cwd"], process.info["status"]
            if cwd and status != psutil.STATUS_ZOMBIE and Path(cwd).is_relative_to(self.folder):
                found.append(process)
        return found

    def nothing_runs(self) -> bool:
        return not self.processes()


def wait_for(what: Callable[[], Any], child: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is true, while a child runs."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        if child is not None and child.poll() is not None:
            out, err = child.communicate()
            raise AssertionError(f"ended too early, exit code {child.returncode}:\n{out}{err}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def _shrink(values: dict[str, Any]) -> None:
    """Make every number of the parameters small."""
    values["prepare"]["split"] = {"salt": 1, "train": 0.4, "valid": 0.3, "test": 0.3}
    for source in values["sources"]:
        values["prepare"][source]["max_s"] = 8.0
    values["render"] |= {
        "pairs": {"train": 48, "valid": 8, "test": 16},
        "pair_s": {"train": 2.0, "valid": 2.0, "test": 2.0},
        "pairs_per_shard": 8,
        "trial_candidates": [2, 4],
    }
    train = values["train"]
    train |= {"steps": 4, "batch_pairs": 4, "crop_s": [1.0], "compile": False}
    train |= {"log_every_steps": 1, "checkpoint_every_s": 0.1}
    train["optimiser"]["warmup_steps"] = 1
    train["validate"] |= {"every_steps": 2, "pairs": 8, "candidates": 4, "clip_s": 1.0}
    values["evaluate"] |= {"clip_s": 2.0, "bootstrap": 100, "sensitivity_pairs": 2}
    values["evaluate"]["beats"] = None
    values["evaluate"]["chords"] |= {"seconds": 8.0, "window_s": 1.0}
    # A model of four steps cannot be better than chance.
    values["register"]["gate_times_chance"] = 0.0
