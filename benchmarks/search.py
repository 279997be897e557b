"""Exact search of an index of 100,000 windows on one thread, beside brute force over the score.

    python benchmarks/search.py --model data/train [--rows 1000000]

The index is written to a temporary folder and mapped, as `phalar search` does. How long an
exact search takes does not depend on what the vectors are; so they are random, and what is checked
is that the windows found are those that the model's own score puts first.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before NumPy, which reads them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import torch

import phalar
from phalar.search import Searcher, Wanted, open_index, store
from phalar.search.store import Entry, Facts, State
from phalar.search.windows import Grid

WINDOWS_A_FILE = 20
TOP = 10

MOST_CHECKED = 200_000
"""Brute force over more would take several times their memory."""


def make_index(folder: Path, model: str, sha256: str, rows: int) -> None:
    """Write an index of random unit vectors."""
    rng = np.random.default_rng(1)
    store.write_facts(folder, Facts(folder.parent, str(Path(model).resolve()), sha256, Grid()))
    with (folder / "vectors-0.f32").open("wb") as file:
        for _ in range(0, rows, 10_000):
            block = rng.normal(size=(10_000, 1024)).astype(np.float32)
            (block / np.linalg.norm(block, axis=1, keepdims=True)).tofile(file)
    seconds = 5 + 2.5 * (WINDOWS_A_FILE - 1)
    # What is found is heard closely: each file is this one.
    soundfile.write(folder / "noise.flac", rng.normal(0, 0.1, round(seconds * 16_000)), 16_000)
    for number in range(rows // WINDOWS_A_FILE):
        (folder.parent / f"{number:06d}.wav").symlink_to(folder / "noise.flac")
    entries = [
        Entry(f"{number:06d}.wav", f"{number:064x}", 1, 1, seconds, number * WINDOWS_A_FILE,
              WINDOWS_A_FILE, ())
        for number in range(rows // WINDOWS_A_FILE)
    ]  # fmt: skip
    store.write_table(folder, entries, State("vectors-0.f32", rows))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = phalar.load_model(given.model)
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / store.FOLDER
        folder.mkdir()
        make_index(folder, given.model, str(model.sha256), given.rows)
        searcher = Searcher(open_index(folder), exact=True)
        rows = torch.from_numpy(np.array(searcher.index.vectors[:MOST_CHECKED]))
        form = model.similarity.query_map()
        mapped, cpu, brute, same = [], [], [], 0
        for _ in range(given.queries):
            x = torch.from_numpy(rng.normal(size=(1, 1024)).astype(np.float32))
            x /= x.norm()
            with torch.no_grad():
                query = (x @ form).numpy()
            start, start_cpu = time.perf_counter(), time.process_time()
            found = searcher.search([query], Wanted(TOP))[0]
            mapped.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            if given.rows > MOST_CHECKED:
                continue
            start = time.perf_counter()
            # x and the rows have unit length already: this is the model's score of every pair.
            a, b = (torch.complex(*part.chunk(2, -1)) for part in (x, rows))
            with torch.no_grad():
                scores = model.score(a, b)
            brute.append(time.perf_counter() - start)
            best = scores.reshape(-1, WINDOWS_A_FILE).max(1).values.topk(TOP).indices
            same += [int(each.entry.path[:6]) for each in found] == best.tolist()
        print(f"rows {given.rows}, queries {given.queries}, one thread")
        print(f"search   {1000 * statistics.median(mapped):8.1f} ms wall, "
              f"{1000 * statistics.median(cpu):.1f} ms CPU")  # fmt: skip
        if brute:
            print(f"brute force over the score {1000 * statistics.median(brute):8.1f} ms wall")
            print(f"same {TOP} in the same order: {same} of {given.queries}")
        mix = Path(root) / "mix.wav"
        soundfile.write(mix, rng.normal(0, 0.1, 6 * 16_000), 16_000)
        for words in (["--refine"], ["--no-refine"]):
            command = ["search", str(mix), "--index", root, "--json", *words]
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "phalar.cli", *command],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = sum(
                getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime")
            )
            print(f"`phalar search {words[0]}` from the shell "
                  f"{time.perf_counter() - start:.1f} s wall, {cpu_s:.1f} s CPU")  # fmt: skip


if __name__ == "__main__":
    main()
