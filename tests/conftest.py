"""Tiny music for tests: songs synthesised by numpy, prepared as the stages expect them."""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from phalar import cli, tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.tracks import Stem, Track

# In a shell's background an interrupt is ignored, and so it would be by all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

STEMS = (("drums", 128), ("bass", 33), ("guitar", 27), ("piano", 0))


def _song(rng: np.random.Generator, seconds: float, source: str, name: str, split: str) -> Track:
    """Four stems in one key and one tempo: clicks, a bass tone, a chord and its arpeggio."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tempo_bpm = float(rng.uniform(80, 160))
    root_hz = float(rng.uniform(110, 220))
    beat = time_s * tempo_bpm / 60
    decay = np.exp(-3 * (beat % 1))
    chord = (1.0, 1.25, 1.5)
    step = np.choose((2 * beat).astype(int) % 3, chord)
    sounds = {
        "drums": decay * rng.standard_normal(len(time_s)),
        "bass": decay * np.sin(np.pi * root_hz * time_s),
        "guitar": sum(np.sin(2 * np.pi * root_hz * ratio * time_s) for ratio in chord),
        "piano": decay * np.sin(4 * np.pi * root_hz * step * time_s),
    }
    stems = [
        Stem(
            name=f"{number:02d}-{instrument}",
            instrument=instrument,
            audio=(0.2 * sounds[instrument] / np.abs(sounds[instrument]).max()).astype(np.float32),
            program=program,
        )
        for number, (instrument, program) in enumerate(STEMS)
    ]
    beats_s = np.arange(0, seconds, 60 / tempo_bpm).tolist()
    return Track(
        source=source,
        track=name,
        song=name,
        split=split,
        licence="CC0-1.0",
        stems=stems,
        source_files=[(f"{name}.mid", hashlib.sha256(name.encode()).hexdigest())],
        tempo_bpm=tempo_bpm,
        beats_s=beats_s,
        downbeats_s=beats_s[::4],
        chords=[(0.0, seconds, "C:maj")],
    )


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Leave the loggers as they were: a command sets them up for its whole process."""
    logger = logging.getLogger("phalar")
    before = logger.level, logger.propagate, logger.handlers
    yield
    level, logger.propagate, logger.handlers = before
    logger.setLevel(level)


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Run the command within the module's own `folder`; give exit code, stdout and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PHALAR_MODEL", raising=False)

    def run(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(words.split())
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def tiny_songs() -> Callable[..., Path]:
    """Return a function that writes prepared parquet of small songs into a folder.

    `tiny_songs(folder, source="bands", songs=4, seconds=6.0)` writes so many songs into each split
    of `folder`, which stands for `data/prepare/<source>`, and returns the folder. The same
    arguments give the same bytes.
    """

    def write(folder: Path, *, source: str, songs: int, seconds: float) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for place, split in enumerate(tracks.SPLITS):
            made = (
                _song(
                    np.random.default_rng([len(source), place, number]),
                    seconds,
                    source,
                    f"{split}-{number}",
                    split,
                )
                for number in range(songs)
            )
            tracks.write_tables(folder / f"{split}-00000.parquet", map(tracks.to_table, made))
        return folder

    return write
