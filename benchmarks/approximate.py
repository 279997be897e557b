"""Approximate search among a million real embeddings, beside the exact one, on one thread.

    python benchmarks/approximate.py make --data data --out real [--rows 1000000] [--window 1]
    python benchmarks/approximate.py measure --data data --vectors real

`make` embeds with the trained model what a library of stems would hold: sums of one or more stems
of a prepared track, drawn at random, from a random start. The queries are other such sums, of the
test songs alone. Stopped, it goes on where it was. On random vectors every quantiser fails, and
what it does on them says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

# Before NumPy, which reads them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray

import phalar
from phalar import tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.model import Phalar
from phalar.tracks import TrackIndex

ROWS_A_VISIT = 240
"""A track is decoded once for so many rows, and visited again in the next round."""

QUERIES_A_TRACK = 20
CLIPS = 16
QUIET_DB = -50.0
ROW_BYTES = 4 * 1024


def draw(
    stems: NDArray[np.float32], samples: int, count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw audible sums of stems (S, N) from random starts: (count, samples)."""
    clips = np.zeros((count, samples), np.float32)
    for place in range(count):
        for _ in range(20):
            start = int(rng.integers(stems.shape[1] - samples + 1))
            chosen = rng.permutation(len(stems))[: int(rng.integers(1, len(stems) + 1))]
            clips[place] = stems[chosen, start : start + samples].sum(axis=0)
            if 20 * np.log10(clips[place].std() + 1e-9) > QUIET_DB:
                break
    return clips


def embed(model: Phalar, clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embed clips as an index does: unit vectors (count, 1024)."""
    z = model.embed(clips, SAMPLE_RATE_HZ, batch_size=CLIPS)
    return np.asarray(model.search_vectors(z).numpy(), np.float32)


def make(data: Path, out: Path, rows: int, window_s: float) -> None:
    """Embed until there are so many rows."""
    model = phalar.load_model(data / "train")
    out.mkdir(parents=True, exist_ok=True)
    samples = round(window_s * SAMPLE_RATE_HZ)
    facts = {"model_sha256": model.sha256, "window_s": window_s}
    told = out / "made.json"
    if told.exists() and json.loads(told.read_text()) != facts:
        raise SystemExit(f"{out}: made with another model or window; name another folder")
    told.write_text(json.dumps(facts) + "\n")
    songs = {
        split: [
            track
            for source in sorted((data / "prepare").iterdir())
            if list(source.glob(f"{split}-*.parquet"))
            for track in tracks.read_index(source, split)
            if track.samples >= samples
        ]
        for split in tracks.SPLITS
    }
    if not (out / "queries.f32").exists():
        asked = [
            embed(model, draw(tracks.read_stems(track), samples, QUERIES_A_TRACK, rng))
            for number, track in enumerate(songs["test"])
            for rng in [np.random.default_rng([2, number])]
        ]
        np.concatenate(asked).tofile(out / "queries.f32")
    everything = [track for split in tracks.SPLITS for track in songs[split]]
    path = out / "vectors-0.f32"
    done = path.stat().st_size // (ROW_BYTES * ROWS_A_VISIT) if path.exists() else 0
    with path.open("ab") as file:
        file.truncate(done * ROW_BYTES * ROWS_A_VISIT)
        while done * ROWS_A_VISIT < rows:
            round_number, place = divmod(done, len(everything))
            order = np.random.default_rng([1, round_number]).permutation(len(everything))
            track: TrackIndex = everything[order[place]]
            rng = np.random.default_rng([1, round_number, place])
            clips = draw(tracks.read_stems(track), samples, ROWS_A_VISIT, rng)
            embed(model, clips).tofile(file)
            file.flush()
            done += 1
            if done % 10 == 0:
                print(f"{done * ROWS_A_VISIT} rows, {time.process_time():.0f} s CPU", flush=True)


def main() -> None:
    """Make, or measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "measure"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--window", type=float, default=1.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    make(given.data, given.out, given.rows, given.window)


if __name__ == "__main__":
    main()
