"""Small renders for tests: params.yaml with other numbers, and music whose sound is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from phalar import tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Params
from phalar.tracks import Stem, Track

ROOT = Path(__file__).parents[1]


def tiny_params(*, sources: Sequence[str] = ("bands",), **changed: dict[str, Any]) -> Params:
    """Read params.yaml, render half-second pairs in one process, and change what is given."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = list(sources)
    raw["render"] |= {
        "workers": 1,
        "pairs": {"train": 24, "valid": 8, "test": 16},
        "pair_s": {"train": 0.5, "valid": 0.5, "test": 0.5},
        "pairs_per_shard": 10,
        "trial_candidates": [2, 4],
    }
    for section, values in changed.items():
        raw[section] |= values
    return Params.model_validate(raw)


def noise_track(
    name: str,
    *,
    split: str = "train",
    source: str = "bands",
    song: str | None = None,
    stems: int = 3,
    seconds: float = 2.0,
    level: float = 0.1,
    silent: Sequence[tuple[int, slice]] = (),
) -> Track:
    """Noise, of which any few samples are found again; `silent` are (stem, seconds) without it."""
    rng = np.random.default_rng(list(name.encode()))
    samples = round(seconds * SAMPLE_RATE_HZ)
    sounds = rng.uniform(-level, level, (stems, samples)).astype(np.float32)
    for stem, moment in silent:
        first, last = (round(second * SAMPLE_RATE_HZ) for second in (moment.start, moment.stop))
        sounds[stem, first:last] = 0
    return Track(
        source=source,
        track=name,
        song=song or name,
        split=split,
        licence="CC0-1.0",
        stems=[Stem(f"{n:02d}-stem", "other", sound) for n, sound in enumerate(sounds)],
        source_files=[(f"{name}.wav", hashlib.sha256(name.encode()).hexdigest())],
        tempo_bpm=120.0,
    )


def prepare(folder: Path, made: Sequence[Track]) -> None:
    """Write tracks of one source as the prepare stage does."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in tracks.SPLITS:
        tables = [tracks.to_table(track) for track in made if track.split == split]
        if tables:
            tracks.write_tables(folder / f"{split}-00000.parquet", tables)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
