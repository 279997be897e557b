"""The constant-Q transform, ours against nnAudio's: time, error and memory, side by side.

    python benchmarks/cqt.py

One process, one thread, CPU time, medians; both sides take turns, so that a busy machine slows
both. Errors are those of the scaled decibel feature over synthetic music.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from nnAudio.features import CQT1992v2
from torch import Tensor, nn
from torchaudio.functional import amplitude_to_DB

from phalar.model.cqt import ConstantQ
from phalar.model.cqt_kernels import direct_kernel, kernel_span
from phalar.model.frontend import ConstantQDecibels

RATE_HZ = 16_000
CLIP_SAMPLES = 5 * RATE_HZ


def reference_transform() -> nn.Module:
    return CQT1992v2(RATE_HZ, 160, fmin=16.35, n_bins=96, output_format="Magnitude", verbose=False)


class ReferenceDecibels(nn.Module):
    """What the authors' front end computes, with each clip's own floor."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = reference_transform()

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F, T)."""
        magnitude_BCFT = self.transform(wave_BN).unsqueeze(1)
        return (amplitude_to_DB(magnitude_BCFT, 20, 1e-10, 0, 80.0).squeeze(1) + 80) / 80


SIDES: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "magnitude": {"ours": ConstantQ, "nnAudio": reference_transform},
    "decibels": {"ours": ConstantQDecibels, "nnAudio": ReferenceDecibels},
}


def synthetic_music(rng: np.random.Generator) -> np.ndarray:
    """Make a clip of bass, chords, a lead, kick, snare and a pause, at -20 to 0 dB."""
    clip = np.zeros(CLIP_SAMPLES)
    beat_s, root = 60 / rng.uniform(80, 150), int(rng.integers(28, 40))

    def add(start_s: float, sound: np.ndarray) -> None:
        first = int(start_s * RATE_HZ)
        clip[first : first + len(sound)] += sound[: max(0, CLIP_SAMPLES - first)]

    def tone(pitch: int, length_s: float, level: float, decay: float) -> np.ndarray:
        time_s = np.arange(int(length_s * RATE_HZ)) / RATE_HZ
        harmonics = np.arange(1, 13) * 440 * 2 ** ((pitch - 69) / 12)
        harmonics = harmonics[harmonics < 7600]
        turns = np.outer(harmonics, time_s) + rng.uniform(size=(len(harmonics), 1))
        waves = np.sin(2 * np.pi * turns) / np.arange(1, len(harmonics) + 1)[:, None]
        attack = np.minimum(1, time_s / 0.005) * np.minimum(1, time_s[::-1] / 0.005)
        return level * waves.sum(0) * np.exp(-decay * time_s) * attack

    for beat in range(int(5 / beat_s) + 1):
        at_s = beat * beat_s
        add(at_s, tone(root + int(rng.choice([0, 0, 7, 5])), 0.9 * beat_s, 0.5, 2))
        for half in (0, 0.5):
            melody = root + 36 + int(rng.choice([0, 2, 4, 7, 9, 12]))
            add(at_s + half * beat_s, tone(melody, 0.45 * beat_s, 0.2, 4))
        time_s = np.arange(3200) / RATE_HZ
        if beat % 2:
            add(at_s, 0.4 * rng.standard_normal(3200) * np.exp(-25 * time_s))
        else:
            for interval in (24, 28, 31):
                add(at_s, tone(root + interval, 1.8 * beat_s, 0.15, 1))
            sweep = 50 * time_s + 8 * (1 - np.exp(-30 * time_s))
            add(at_s, 0.8 * np.sin(2 * np.pi * sweep) * np.exp(-18 * time_s))
    pause = int(rng.integers(CLIP_SAMPLES))
    clip[pause : pause + RATE_HZ // 2] = 0
    return clip / np.abs(clip).max() * 10 ** (-rng.uniform(0, 20) / 20)


def direct_decibels(clip: np.ndarray) -> np.ndarray:
    """Compute the feature in float64 as its definition says it."""
    frames, reach = len(clip) // 160 + 1, 16_384
    padded = np.pad(clip, reach, mode="reflect")
    magnitude = np.empty((96, frames))
    for k in range(96):
        first, taps = kernel_span(k)
        windows = np.lib.stride_tricks.sliding_window_view(padded[reach + first :], taps)
        magnitude[k] = np.abs(windows[::160][:frames] @ direct_kernel(k))
    level_db = 20 * np.log10(np.maximum(magnitude, 1e-10))
    return (np.maximum(level_db, level_db.max() - 80) + 80) / 80


def cpu_s(module: nn.Module, wave_BN: Tensor, calls: int) -> float:
    """Give the CPU time of a call."""
    start = time.process_time()
    for _ in range(calls):
        module(wave_BN)
    return (time.process_time() - start) / calls


def print_times(clips: np.ndarray, repeats: int) -> None:
    print(f"{'':12}{'clips':>6}{'ours ms':>10}{'nnAudio ms':>12}{'times':>8}   (CPU time a clip)")
    for feature, builders in SIDES.items():
        sides = {name: build() for name, build in builders.items()}
        for count in (1, len(clips)):
            wave_BN = torch.from_numpy(clips[:count]).float()
            times: dict[str, list[float]] = {name: [] for name in sides}
            ratios = []
            for turn in range(repeats + 1):
                for name, side in sides.items():
                    calls = max(1, (4 if name == "nnAudio" else 64) // count)
                    spent_s = cpu_s(side, wave_BN, calls)
                    if turn:
                        times[name].append(spent_s / count)
                if turn:
                    ratios.append(times["nnAudio"][-1] / times["ours"][-1])
            ours_ms, theirs_ms = (1e3 * statistics.median(times[name]) for name in sides)
            ratio = statistics.median(ratios)
            print(f"{feature:12}{count:6}{ours_ms:10.3f}{theirs_ms:12.2f}{ratio:8.1f}")


def print_errors(clips: np.ndarray) -> None:
    wave_BN = torch.from_numpy(clips).float()
    exact = np.stack([direct_decibels(clip) for clip in wave_BN.double().numpy()])
    ours, theirs = (build()(wave_BN).double().numpy() for build in SIDES["decibels"].values())
    print(f"\n{'error of the scaled decibel feature':40}{'largest':>10}{'mean':>10}")
    pairs = {
        "ours against nnAudio": (ours, theirs),
        "ours against float64": (ours, exact),
        "nnAudio against float64": (theirs, exact),
    }
    for name, (a, b) in pairs.items():
        error = np.abs(a - b)
        print(f"{name:40}{error.max():10.1e}{error.mean():10.1e}")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def print_peak(feature: str, side: str, count: int) -> None:
    """Print the memory that one transform takes beyond its input, in a process of its own."""
    module, wave_BN = SIDES[feature][side](), torch.randn(count, CLIP_SAMPLES)
    module(wave_BN[:1])
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = module(wave_BN)
    done.set()
    watcher.join()
    print((peak - before) / 2**20, result.nbytes / 2**20)


def print_memory(count: int) -> None:
    print(f"\n{'peak extra memory, ' + str(count) + ' clips':40}{'ours MiB':>10}{'nnAudio':>10}")
    for feature, builders in SIDES.items():
        peaks = {}
        for side in builders:
            command = [sys.executable, __file__, "--peak", feature, side, "--clips", str(count)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks[side], result = (float(word) for word in output.split())
        label = f"{feature} (the result itself: {result:.0f})"
        print(f"{label:40}{peaks['ours']:10.0f}{peaks['nnAudio']:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=64, help="size of the large batch (64)")
    parser.add_argument("--repeats", type=int, default=7, help="turns that each side takes (7)")
    parser.add_argument("--peak", nargs=2, metavar=("FEATURE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.peak:
            print_peak(*options.peak, options.clips)
            return
        rng = np.random.default_rng(1)
        clips = np.stack([synthetic_music(rng) for _ in range(options.clips)])
        start = time.perf_counter()
        ConstantQ()
        print(f"built in {time.perf_counter() - start:.2f} s\n")
        print_times(clips, options.repeats)
        print_errors(clips[:16])
        print_memory(options.clips)


if __name__ == "__main__":
    main()
