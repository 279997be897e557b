"""Tempo and key from sound: how many of those that are told are right, on prepared music.

    python benchmarks/estimate.py --data data [--split test]

The tempo is the score's. The key is the one whose profile is nearest to the score's chords, each
weighted by how long it sounds: the scores name no key.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from phalar import audio
from phalar.search import estimate
from phalar.search.estimate import Estimate

CHORD = {"maj": (0, 4, 7), "min": (0, 3, 7)}
CLEARNESS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


def true_key(chords: list[dict[str, object]]) -> str:
    """Key of chords by the profile of their notes."""
    classes = np.zeros(12)
    for chord in chords:
        name, _, kind = str(chord["label"]).partition(":")
        if name in estimate.NAMES and kind in CHORD:
            root = estimate.NAMES.index(name)
            for note in CHORD[kind]:
                classes[(root + note) % 12] += float(chord["end_s"]) - float(chord["start_s"])  # type: ignore[arg-type]
    return estimate.key_of(classes)[0]


def related(found: str, true: str) -> bool:
    """Whether two keys are the same, relative, parallel, or a fifth apart."""

    def read(name: str) -> tuple[int, bool]:
        return estimate.NAMES.index(name.rstrip("m")), name.endswith("m")

    (a, a_minor), (b, b_minor) = read(found), read(true)
    if a_minor == b_minor:
        return (a - b) % 12 in (0, 5, 7)
    return (a - b) % 12 in ((9, 0) if a_minor else (3, 0))


def heard(data: Path, split: str) -> Iterator[tuple[str, str, Estimate, float, str]]:
    """Give source, instrument, estimate, true tempo and true key of every stem."""
    for path in sorted((data / "prepare").glob(f"*/{split}-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(
            16, columns=["source", "instrument", "audio", "tempo_bpm", "chords"]
        ):
            for row in batch.to_pylist():
                found = estimate.estimate(audio.load_mono(row["audio"]["bytes"]))
                if found is not None and row["tempo_bpm"]:
                    yield (row["source"], row["instrument"], found, row["tempo_bpm"],
                           true_key(row["chords"]))  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--all", action="store_true", help="Also below what is told.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    rows = list(heard(given.data, given.split))
    print(f"{len(rows)} stems, {time.process_time() - start:.0f} s CPU, decoding included")
    for what, least in (("tempo", estimate.SURE_TEMPO), ("key", estimate.SURE_KEY)):
        for source in [*sorted({row[0] for row in rows}), "all"]:
            for clearness in CLEARNESS if given.all else [least]:
                told = [r for r in rows if source in (r[0], "all")
                        and getattr(r[2], f"{what}_clearness") >= clearness]  # fmt: skip
                if not told:
                    continue
                if what == "tempo":
                    ratio = np.array([r[2].tempo_bpm / r[3] for r in told])
                    right = np.abs(ratio - 1) < 0.04
                    near = np.min([np.abs(ratio / o - 1) for o in (0.5, 1, 2)], axis=0) < 0.04
                else:
                    right = np.array([r[2].key == r[4] for r in told])
                    near = np.array([related(r[2].key, r[4]) for r in told])
                of = sum(source in (r[0], "all") for r in rows)
                print(f"{what} {source:9} clearness {clearness:.2f}: told {len(told)} of {of}, "
                      f"right {100 * right.mean():.0f} %, "
                      f"{'octave apart' if what == 'tempo' else 'related'} too "
                      f"{100 * near.mean():.0f} %")  # fmt: skip


if __name__ == "__main__":
    main()
