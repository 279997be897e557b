"""Approximate search among real embeddings, beside the exact one, on one thread.

    python benchmarks/approximate.py make --data data --vectors real [--window 1]
    python benchmarks/approximate.py measure --data data --vectors real

`make` embeds with the trained model what a library of stems would hold: sums of one or more stems
of a prepared track, drawn at random, from a random start. The queries are other such sums, of the
test songs alone. Stopped, it goes on where it was. On random vectors every quantiser fails, and
what it does on them says nothing.

`measure` takes all that is there, up to `--rows`.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# Before NumPy, which reads them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

import phalar
from phalar import tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.model import Phalar
from phalar.search import Searcher, Wanted, approximate, codes, open_index, store
from phalar.search.store import Entry, Facts, State
from phalar.search.windows import Grid
from phalar.tracks import TrackIndex

ROWS_A_VISIT = 240
"""A track is decoded once for so many rows, and visited again in the next round."""

QUERIES_A_TRACK = 20
CLIPS = 16
QUIET_DB = -50.0
ROW_BYTES = 4 * 1024
WINDOWS_A_FILE = 20
QUERIES = 200


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


def make(data: Path, out: Path, rows: int, window_s: float, workers: int) -> None:
    """Embed until there are so many rows: the same ones, whatever the number of processes."""
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
    path = out / "vectors-0.f32"
    done = path.stat().st_size // (ROW_BYTES * ROWS_A_VISIT) if path.exists() else 0
    everything = [track for split in tracks.SPLITS for track in songs[split]]
    visits = Visits(data / "train", everything, samples)
    begun, total = time.perf_counter(), -(-rows // ROWS_A_VISIT)
    with (
        path.open("ab") as file,
        multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool,
    ):
        file.truncate(done * ROW_BYTES * ROWS_A_VISIT)
        for number, vectors in enumerate(pool.imap(visits.embed, range(done, total)), start=1):
            vectors.tofile(file)
            file.flush()
            if number % 20 == 0:
                left_s = (time.perf_counter() - begun) * (total - done - number) / number
                made = (done + number) * ROWS_A_VISIT
                print(f"{made} of {rows} rows, {left_s / 60:.0f} min left", flush=True)


@dataclass(frozen=True, slots=True)
class Visits:
    """Rounds over the tracks, each in its own order; of a track visited so many rows are made."""

    trained: Path
    everything: list[TrackIndex]
    samples: int

    def embed(self, visit: int) -> NDArray[np.float32]:
        """Embed what is drawn from the track of one visit: (ROWS_A_VISIT, 1024)."""
        round_number, place = divmod(visit, len(self.everything))
        order = np.random.default_rng([1, round_number]).permutation(len(self.everything))
        rng = np.random.default_rng([1, round_number, place])
        stems = tracks.read_stems(self.everything[order[place]])
        return embed(model_of(self.trained), draw(stems, self.samples, ROWS_A_VISIT, rng))


@lru_cache(maxsize=1)
def model_of(trained: Path) -> Phalar:
    """Load the model once a process."""
    return phalar.load_model(trained)


def write_index(folder: Path, model: Phalar, vectors: Path, rows: int) -> None:
    """Write an index over the vectors: twenty of a track, drawn one after the other, are a file."""
    facts = Facts(folder.parent, "benchmark", str(model.sha256), Grid(), codes=True)
    store.write_facts(folder, facts)
    (folder / "vectors-0.f32").symlink_to(vectors.resolve())
    seconds = 5 + 2.5 * (WINDOWS_A_FILE - 1)
    entries = [
        Entry(f"{number:06d}.wav", f"{number:064x}", 1, 1, seconds, number * WINDOWS_A_FILE,
              WINDOWS_A_FILE, ())
        for number in range(rows // WINDOWS_A_FILE)
    ]  # fmt: skip
    store.write_table(folder, entries, State("vectors-0.f32", rows))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the clock and of CPU time."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - start_cpu)


def measure(data: Path, vectors: Path, most_rows: int) -> None:
    """Build the index of what is there, search it both ways, and print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = phalar.load_model(data / "train")
    if json.loads((vectors / "made.json").read_text())["model_sha256"] != model.sha256:
        raise SystemExit(f"{vectors}: made with another model; make it anew")
    path = vectors / "vectors-0.f32"
    rows = min(most_rows, path.stat().st_size // ROW_BYTES) // WINDOWS_A_FILE * WINDOWS_A_FILE
    x = np.fromfile(vectors / "queries.f32", np.float32).reshape(-1, 1024)
    x = x[np.random.default_rng(3).permutation(len(x))[:QUERIES]]
    queries = x @ model.similarity.query_map().numpy()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "stems", store.FOLDER)
        folder.mkdir(parents=True)
        write_index(folder, model, path, rows)
        _, build_ms = timed(lambda: approximate.refresh(folder, model))
        index = open_index(folder)
        near, exact = Searcher(index), Searcher(index, exact=True)
        if near.quality is None or not near.candidates:
            raise SystemExit(f"codes are no good here: {near.quality}")
        shares = []
        times: dict[Searcher, list[tuple[float, float]]] = {near: [], exact: []}
        for query in queries[:, None]:
            found = []
            for searcher, taken in times.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                best = searcher.search([query], Wanted(10))[0]
                wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
                taken.append((1000 * wall_s, 1000 * cpu_s))
                found.append({each.entry.path for each in best})
            shares.append(len(found[0] & found[1]) / len(found[1]))
        print(f"{rows} windows, codes of them learned and measured in {build_ms / 1000:.0f} s CPU")
        recall = near.quality.recall
        print(f"{near.candidates} candidates; on the index itself: recall@10 {recall:.3f}")
        print(f"{len(queries)} queries of test songs: recall@10 {np.mean(shares):.3f}")
        tell("approximate", times[near])
        tell("exact", times[exact])
        codes_mb = (index.folder / str(index.state.codes) / codes.CODES).stat().st_size / 2**20
        print(f"codes {codes_mb:.0f} MB, vectors {index.vectors.nbytes / 2**20:.0f} MB mapped")


def tell(what: str, times: list[tuple[float, float]]) -> None:
    """Print the median time of a query."""
    wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"{what}: {wall:.1f} ms wall, {cpu:.1f} ms CPU a query")


def main() -> None:
    """Make, or measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "measure"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True, help="Folder of the embeddings.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--window", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Processes of `make`.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if given.what == "make":
        make(given.data, given.vectors, given.rows, given.window, given.workers)
    else:
        measure(given.data, given.vectors, given.rows)


if __name__ == "__main__":
    main()
