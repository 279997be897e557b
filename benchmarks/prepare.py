"""Preparing recorded tracks against the bare cost of its parts, and what the resampler keeps.

    python benchmarks/prepare.py

Stereo WAV at 44.1 kHz to mono FLAC at 16 kHz in parquet, one process, one thread, CPU time. `bare`
is what must be done with each file: its SHA-256, decoding, the mean of the channels, soxr HQ and
FLAC. Ours also checks, aligns, measures levels, fingerprints, and writes the parquet twice (a track
each, then joined).
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import soxr
import yaml

from phalar import audio, download, params, prepare

RATE_HZ, STEMS = 44_100, 4
ROOT = Path(__file__).parents[1]


def write_track(folder: Path, number: int, seconds: float) -> None:
    """Write stems of decaying tones over a little noise, which FLAC packs as it packs music."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    for stem in range(STEMS):
        tone = sum(np.sin(2 * np.pi * hz * time_s) for hz in rng.uniform(80, 2000, 4)) * np.exp(
            -3 * (2 * time_s % 1)
        )
        both = [0.05 * tone + 0.002 * rng.standard_normal(len(time_s)) for _ in range(2)]
        soundfile.write(folder / f"{stem}.wav", np.stack(both, axis=1), RATE_HZ)


def settings(root: Path, tracks: int, seconds: float) -> params.Params:
    splits = ("train", "valid", "test")
    for number in range(tracks):
        write_track(root / "mine" / f"{number:03d}", number, seconds)
    about = {f"{number:03d}": {"split": splits[number % 3]} for number in range(tracks)}
    (root / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = ["folder"]
    raw["download"]["folder"] = {"path": "mine"}
    raw["prepare"] |= {"workers": 1}
    asked = {"max_s": 1200.0, "shortest_stem": 0.9, "silent_db": -60.0, "duplicate": 0.15}
    raw["prepare"]["folder"] = asked
    raw["render"]["weights"] = {"folder": 1.0}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    return params.load(root / "params.yaml")


def bare(root: Path) -> None:
    for path in sorted(root.glob("mine/*/*.wav")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()
        sound, rate_hz = soundfile.read(path, dtype="float32")
        mono = (sound[:, 0] + sound[:, 1]) * np.float32(0.5)  # numpy's mean of pairs is far slower
        audio.encode(soxr.resample(mono, rate_hz, audio.SAMPLE_RATE_HZ, quality=audio.QUALITY))


def cpu_s(function: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def speed(tracks: int, seconds: float, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        loaded = settings(root, tracks, seconds)
        download.run(loaded, "folder")
        times = [(cpu_s(prepare.run, loaded, "folder"), cpu_s(bare, root)) for _ in range(rounds)]
    ours, least = (float(np.median(column)) for column in np.transpose(times))
    ratio = float(np.median([a / b for a, b in times]))
    stems_s = tracks * STEMS * seconds
    print(f"ours {stems_s / ours:.0f}, bare {stems_s / least:.0f} seconds of stems a second of CPU")
    print(f"ours / bare: {ratio:.2f} (bar 1.5)")


def memory(counts: list[int], seconds: float) -> None:
    """Peak of a process of its own for each number of tracks."""
    for count in counts:
        words = [sys.executable, __file__, "--peak", str(count), "--seconds", str(seconds)]
        peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        print(f"{count} tracks of {seconds:g} s: peak {peak.split()[-1]} MiB (bar 1500)")


def peak(tracks: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = settings(Path(folder), tracks, seconds)
        download.run(loaded, "folder")
        child = os.fork()  # what made the tracks does not count
        if child == 0:
            prepare.run(loaded, "folder")
            os._exit(0)
        os.waitpid(child, 0)
    print(round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))


def quality() -> None:
    """Gain of tones that must stay, and what is left of tones that must go."""
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ

    def level_db(hz: float) -> float:
        out = audio.resample(np.sin(2 * np.pi * hz * time_s).astype(np.float32), RATE_HZ)
        middle = out[8_000:-8_000].astype(np.float64)
        return 10 * np.log10(max(2 * np.mean(middle**2), 1e-30))

    kept = {hz: level_db(hz) for hz in np.arange(50, 7_050, 50)}
    print(f"pass band to 7 kHz: {min(kept.values()):.4f} to {max(kept.values()):.4f} dB")
    for hz in (7_500, 7_800):
        print(f"gain at {hz} Hz: {level_db(hz):.2f} dB")
    gone = {hz: level_db(hz) for hz in np.arange(8_300, 22_000, 100)}
    worst = max(gone, key=lambda hz: gone[hz])
    print(f"aliases of 8.3 to 22 kHz: {gone[worst]:.0f} dB at most ({worst} Hz)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tracks", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=int, help="print the peak memory for so many tracks alone")
    asked = parser.parse_args()
    if asked.peak:
        peak(asked.peak, asked.seconds)
        return
    quality()
    speed(asked.tracks, asked.seconds, asked.rounds)
    memory([3, 9], asked.seconds)


if __name__ == "__main__":
    main()
