"""Indexing a folder of stems: how many times real time, 5 s windows every 2.5 s.

Run it with `OMP_NUM_THREADS=1 python benchmarks/index.py --model data/train`. The stems are made
here: FLAC of 44.1 kHz stereo, so that decoding, mixing down and resampling are counted.
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
from phalar.search import update

RATE_HZ = 44_100
SECONDS = 120


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = phalar.load_model(given.model)
    model.embed(np.random.default_rng(0).normal(0, 0.1, 80_000), 16_000)  # compiled, and warm
    with tempfile.TemporaryDirectory() as root:
        for number in range(given.files):
            rng = np.random.default_rng(number)
            time_s = np.arange(SECONDS * RATE_HZ) / RATE_HZ
            tones = np.sin(2 * np.pi * rng.uniform(60, 2000, 4)[:, None] * time_s).sum(0)
            sound = 0.1 * tones * np.exp(-4 * (2 * time_s % 1)) + rng.normal(0, 0.01, len(time_s))
            soundfile.write(Path(root, f"{number}.flac"), np.stack([sound, sound], 1), RATE_HZ)
        library, folder = Path(root), Path(root, ".phalar")
        names = {"model_name": given.model, "model_sha256": str(model.sha256)}
        start, start_cpu = time.perf_counter(), time.process_time()
        update(library, folder, model, **names)
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        start = time.perf_counter()
        update(library, folder, model, **names)
        again_s = time.perf_counter() - start
    heard_s = given.files * SECONDS
    print(f"{heard_s} s of sound on one thread: {wall_s:.1f} s wall, {cpu_s:.1f} s CPU")
    print(f"{heard_s / cpu_s:.0f} times real time by CPU, {heard_s / wall_s:.0f} by wall")
    print(f"nothing new: {again_s:.2f} s")


if __name__ == "__main__":
    main()
