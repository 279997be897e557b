"""A tiny line that is run by nights, and what Prefect, the registry and DVC then tell of it."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from tiny_line import Line

from flows import repro

PATIENCE_S = 1500.0
"""For a night on a busy machine."""

SOURCE = "folder"
SPLITS = {"train": 4, "valid": 3, "test": 8}
RATE_HZ = 16_000
SECONDS, SLOT_S = 6.0, 0.25
WHO = ("-c", "user.name=a", "-c", "user.email=a@b.c")


class Nights:
    """A project of own multitracks in a commit, prepared as far as no night need do it; a remote.

    All stems of a song sound and pause together, in a rhythm of its own. That can be heard without
    much learning: a model whose similarity starts at the identity finds the stem of its song. Steps
    that are far too large leave it at chance, so that the recipe makes a good or a bad model fast.
    """

    def __init__(self, folder: Path) -> None:
        self.line = Line(folder)
        self.folder = folder
        self.store = folder.parent / "store"
        self.songs = folder.parent / "songs"
        self._about: dict[str, dict[str, str]] = {}
        for split, count in SPLITS.items():
            self.add_songs(split, count)
        self.change(lambda values: _own_songs(values, self.songs))
        self.line.succeed("dvc", "remote", "add", "--default", "store", str(self.store))
        self.line.succeed("dvc", "repro", f"prepare@{SOURCE}")
        self.commit()

    def change(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Edit params.yaml."""
        self.line.change(edit)

    def mend_the_recipe(self) -> None:
        """Train a model that hears which stem is of its song."""
        self.change(lambda values: _steps(values, adam=0.004, muon=0.02))

    def ruin_the_recipe(self) -> None:
        """Train one that does not."""
        self.change(lambda values: _steps(values, adam=4.0, muon=20.0))

    def commit(self) -> None:
        for words in (("add", "--all", "."), (*WHO, "commit", "--quiet", "--message", "a state")):
            subprocess.run(["git", *words], cwd=self.folder, check=True)

    def run(self, **changes: str) -> tuple[int, str]:
        """Run one night now; give its exit code and the last line that it wrote."""
        done = self.line.run("flows.nightly", **changes)
        said = done.stdout.strip() or done.stderr.strip()
        return done.returncode, said.splitlines()[-1]

    @contextmanager
    def between_nights(self) -> Iterator[None]:
        """Keep nights from starting while something is changed."""
        with (self.folder / repro.LOCK).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def states(self) -> list[tuple[str, str, str]]:
        """Type, name and message of the state of each night, the first that started first."""
        path = self.folder / ".prefect/prefect.db"
        if not path.exists():
            return []
        query = (
            "select state.type, state.name, state.message from flow_run "
            "join flow on flow.id = flow_run.flow_id "
            "join flow_run_state as state on state.id = flow_run.state_id "
            "where flow.name = 'nightly' and flow_run.start_time is not null "
            "order by flow_run.start_time"
        )
        with closing(sqlite3.connect(path, timeout=60)) as database:
            try:
                return list(database.execute(query))
            except sqlite3.OperationalError:  # its tables are being made
                return []

    def artifacts(self) -> list[str]:
        """Say what each night wrote for Prefect's page."""
        with closing(sqlite3.connect(self.folder / ".prefect/prefect.db", timeout=60)) as database:
            rows = database.execute(
                "select data from artifact where key = 'nightly' order by created"
            )
            return [json.loads(text) for (text,) in rows]

    def aliases(self) -> dict[str, str]:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        found = client.get_registered_model("phalar").aliases
        return {alias: str(version) for alias, version in found.items()}

    def phalar(self, *words: str) -> Any:
        """Run the command; give what it prints as JSON."""
        return json.loads(self.line.succeed("phalar.cli", *words, "--json"))

    def add_songs(self, split: str, count: int) -> None:
        """Let songs arrive in the folder of the music."""
        for _ in range(count):
            name = f"song {len(self._about)}"
            write_song(self.songs / name, seed=len(self._about))
            self._about[name] = {"split": split, "licence": "CC0-1.0", "artist": name}
        (self.songs / "tracks.yaml").write_text(yaml.safe_dump(self._about))

    def kill_all(self) -> None:
        """Kill -9 whatever runs in the project, as when the machine loses its power."""
        while found := self.line.processes():
            for process in found:
                process.kill()
            time.sleep(0.2)


def wait_until(what: Callable[[], Any]) -> Any:
    """Wait until something is true, and give it."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


def _steps(values: dict[str, Any], **rates: float) -> None:
    for name, rate in rates.items():
        values["train"]["optimiser"][name]["learning_rate"] = rate


def write_song(folder: Path, *, seed: int) -> None:
    """Write three stems that sound and pause together."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    sounding = rng.random(round(SECONDS / SLOT_S)) < 0.6
    envelope = np.repeat(sounding, round(SLOT_S * RATE_HZ))
    sounds = {
        "drums": rng.standard_normal(len(time_s)),
        "bass": np.sin(2 * np.pi * rng.uniform(60, 120) * time_s),
        "piano": np.sin(2 * np.pi * rng.uniform(200, 400) * time_s),
    }
    folder.mkdir(parents=True)
    for name, sound in sounds.items():
        floor = 1e-4 * rng.standard_normal(len(time_s))
        soundfile.write(folder / f"{name}.wav", 0.1 * sound * envelope + floor, RATE_HZ)


def _own_songs(values: dict[str, Any], songs: Path) -> None:
    values["sources"] = [SOURCE]
    values["download"] = {"fetch": values["download"]["fetch"], SOURCE: {"path": str(songs)}}
    asked = {"max_s": 60.0, "shortest_stem": 0.9, "silent_db": -60.0, "duplicate": 0.15}
    kept = ("seed", "workers", "max_bad_fraction", "store", "split")
    values["prepare"] = {name: values["prepare"][name] for name in kept} | {SOURCE: asked}
    values["render"] |= {"weights": {SOURCE: 1.0}}
    values["render"]["pairs"] |= {"train": 24, "test": 48}
    values["train"]["threads"] = 1
    values["evaluate"]["bootstrap"] = 1000
    values["register"]["gate_times_chance"] = 0.0
