"""Are starts found to milliseconds? A stem is taken out of a test song, and looked for.

Run it with `OMP_NUM_THREADS=1 python benchmarks/starts.py --data data`. The library is every stem
of some test songs, each a file of its own; a query is a moment of a song without one of its stems,
from a random place, and the stems that are in it are left out. A song repeats itself, so beside the
true start stands whether the one that was found is on a beat of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

import phalar
from phalar import tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.search import Moment, Searcher, Wanted, open_index, update
from phalar.search.fit import fit
from phalar.search.moment import sum_moments

NEAR_S = 0.05
WINDOW_S = 5.0
AUDIBLE = 0.02


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--songs", type=int, default=12, help="Of each source.")
    parser.add_argument("--moments", type=int, default=2, help="Of each song.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = phalar.load_model(given.data / "train")
    rng = np.random.default_rng(1)
    songs = [
        (source.name, track, tracks.read_stems(track))
        for source in sorted((given.data / "prepare").iterdir())
        for track in tracks.read_index(source, "test")[: given.songs]
        if track.samples > 3 * WINDOW_S * SAMPLE_RATE_HZ
    ]
    rows: list[tuple[str, bool, int, float, float, float]] = []
    with tempfile.TemporaryDirectory() as root:
        library = Path(root)
        for number, (_, track, stems) in enumerate(songs):
            for name, stem in zip(track.stems, stems, strict=True):
                soundfile.write(library / f"{number:03d} {name}.wav", stem, SAMPLE_RATE_HZ)
        update(library, library / ".phalar", model, model_name="m",
               model_sha256=str(model.sha256))  # fmt: skip
        searcher = Searcher(open_index(library))
        windows = len(searcher.index.vectors)
        for number, (source, track, stems) in enumerate(songs):
            paths = [library / f"{number:03d} {name}.wav" for name in track.stems]
            for _ in range(given.moments):
                place, start_s = moment(stems, rng)
                mix = sum_moments(
                    [("mix", stems.sum(0) - stems[place])],
                    Moment(start_s),
                    searcher.index.facts.grid,
                )
                others = frozenset(path.resolve() for path in paths if path != paths[place])
                for refine in (False, True):
                    start = time.process_time()
                    wanted = Wanted(10, not_paths=others)
                    found = fit(model, searcher, mix, wanted, refine=refine)
                    took_s = time.process_time() - start
                    where = [each.entry.path for each in found]
                    rank = where.index(paths[place].name) if paths[place].name in where else 999
                    off_s = found[rank].start_s - start_s if rank < 999 else np.nan
                    rows.append((source, refine, rank, off_s, track.tempo_bpm or np.nan, took_s))
    print(f"{len(songs)} songs, {windows} windows, one thread")
    for source in sorted({row[0] for row in rows}):
        for refine in (False, True):
            here = [row for row in rows if row[:2] == (source, refine)]
            rank = np.array([row[2] for row in here])
            off = np.array([row[3] for row in here])
            beat_s = 60 / np.array([row[4] for row in here])
            on_beat = np.abs((off / beat_s + 0.5) % 1 - 0.5) * beat_s
            known = np.isfinite(off)
            print(
                f"{source:9} {'moved and heard closely' if refine else 'windows of the index':23} "
                f"{len(here)} queries: first {100 * np.mean(rank == 0):.0f} %, among ten "
                f"{100 * np.mean(rank < 10):.0f} %; of {known.sum()} starts "
                f"{100 * np.mean(np.abs(off[known]) < NEAR_S):.0f} % within 50 ms, "
                f"{100 * np.mean(on_beat[known] < NEAR_S):.0f} % of a beat; "
                f"{np.median([row[5] for row in here]):.1f} s CPU a query"
            )


def moment(stems: np.ndarray, rng: np.random.Generator) -> tuple[int, float]:
    """Draw a stem and a start at which it and the others are heard."""
    samples = round(WINDOW_S * SAMPLE_RATE_HZ)
    while True:
        place = int(rng.integers(len(stems)))
        start = int(rng.integers(stems.shape[1] - samples))
        alone = stems[place, start : start + samples]
        rest = stems[:, start : start + samples].sum(0) - alone
        if min(np.abs(alone).max(), np.abs(rest).max()) > AUDIBLE:
            return place, start / SAMPLE_RATE_HZ


if __name__ == "__main__":
    main()
