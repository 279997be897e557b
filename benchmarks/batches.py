"""From shards to augmented batches, against opening, mixing and augmenting stems item by item.

    python benchmarks/batches.py [--pairs 512]

Ten-stem tracks of 240 s, pairs of 10 s in batches of 64, one process, one thread, CPU time; WAV
shards, the allocator's settings of our trainings. The other side opens, decodes and sums the stems
of each pair and augments with NumPy. With augmentation on a device only the reading costs the CPU;
`all on the CPU` augments there, too.
"""

import argparse
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from backbone import ENVIRONMENT
from shards import prepare, settings, stem_files, timed

from phalar import render
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Augment, Noise, Paths
from phalar.render import pairs
from phalar.train.augment import SLOPES, Chance, augment
from phalar.train.batches import Batches
from phalar.train.shards import PairIndex

BATCH = 64


def numpy_augmented(
    pair: np.ndarray, config: Augment, slopes: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Augment one pair as the recipe says, one kind of noise after the other.

    Band-limited noise is drawn as white noise through a mask, bursts as three short ones.
    """
    samples = pair.shape[-1]
    gain = 10 ** (rng.uniform(*config.gain_db) / 20)
    sides = []
    for side in pair:
        power, noisy = np.mean(side**2), side.copy()
        for kind, shape in slopes.items():
            noise: Noise = getattr(config.noises, kind)
            if rng.random() < noise.probability:
                drawn = rng.standard_normal(samples, dtype=np.float32)
                if kind != "white":
                    drawn = np.fft.irfft(np.fft.rfft(drawn) * shape, samples).astype(np.float32)
                wanted = power * 10 ** (-rng.uniform(*noise.snr_db) / 10)
                noisy += drawn * np.sqrt(wanted / np.mean(drawn**2))
        bursts = config.noises.bursts
        if rng.random() < bursts.probability:
            for start in rng.integers(0, samples - 30, rng.integers(1, 4)):
                wanted = power * 10 ** (-rng.uniform(*bursts.snr_db) / 10)
                noisy[start : start + 30] += np.sqrt(wanted) * rng.standard_normal(30)
        sides.append(gain * noisy)
    return np.stack(sides)


def spectra(samples: int) -> dict[str, np.ndarray]:
    """What multiplies the spectrum of white noise, for each kind."""
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    shapes = {
        kind: (hz >= 20) / np.maximum(hz, 20) ** (slope / 2) for kind, slope in SLOPES.items()
    }
    return shapes | {"band": ((hz >= 200) & (hz < 2000)).astype(float)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where a gigabyte is free")
    asked = parser.parse_args()
    if not os.environ.items() >= ENVIRONMENT.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        root = Path(name)
        prepare(root / "prepare" / "bands", asked.tracks)
        params, paths = settings("wav", asked.pairs), Paths(root)
        render.run(params, paths)
        config = params.train.augment
        batches = Batches(PairIndex.read(paths.render, "train"), params.train)
        epoch = asked.pairs // BATCH
        with timed("read, augmented on a device", epoch * BATCH, found):
            for _ in islice(batches, epoch):
                pass
        generator = torch.Generator().manual_seed(1)
        with timed("all on the CPU", epoch * BATCH, found):
            for batch in islice(batches, epoch):
                wave = batch.to("cpu").wave
                augment(wave, config, chance=Chance(generator, len(wave), slice(None)))
        drawn = pairs.plan(params, paths, "train")
        mix = stem_files(drawn, root / "stems")
        shapes, rng = spectra(drawn.samples), np.random.default_rng(1)
        few = min(64, asked.pairs)
        with timed("stem files and NumPy, by item", few, found):
            for pair in range(few):
                numpy_augmented(mix(pair), config, shapes, rng)
    slow = found["stem files and NumPy, by item"]
    for side, rate in found.items():
        print(f"{side}: {rate:.0f} pairs/s/core, {rate / slow:.1f} times")


if __name__ == "__main__":
    main()
