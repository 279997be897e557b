"""Rendering shards and reading batches from them, against mixing stem files item by item.

    python benchmarks/shards.py            # speed
    python benchmarks/shards.py --memory   # peak memory at 3 and 9 tracks

Ten-stem tracks of 240 s, pairs of 10 s, one process, one thread, CPU time. `bare` is what decoding
each track once, summing and writing must cost; `stem files` opens, decodes and sums the stems of
each pair anew, as training on the fly does. Augmentation is the device's, and left out.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from phalar import audio, render, tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Params, Paths
from phalar.render import pairs, shards
from phalar.tracks import Stem, Track
from phalar.train.batches import Batches, read_pairs
from phalar.train.shards import PairIndex

TRACK_S, PAIR_S, STEMS = 240.0, 10.0, 10
PAIRS_A_TRACK = 256


def settings(container: str, count: int) -> Params:
    raw = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    raw["sources"] = ["bands"]
    raw["render"] |= {
        "workers": 1,
        "container": container,
        "pairs": {"train": count, "valid": 1, "test": 1},
        "pair_s": {"train": PAIR_S, "valid": PAIR_S, "test": PAIR_S},
        "trial_candidates": [1],
    }
    raw["train"] |= {"batch_pairs": 64, "crop_s": [PAIR_S], "workers": 0}
    return Params.model_validate(raw)


def prepare(folder: Path, per_split: int) -> None:
    """Write tracks of decaying tones over a little noise, which FLAC packs as it packs music."""
    folder.mkdir(parents=True)
    for split in tracks.SPLITS:
        made = [_track(split, number) for number in range(per_split if split == "train" else 1)]
        tracks.write_tables(folder / f"{split}-00000.parquet", map(tracks.to_table, made))


def _track(split: str, number: int) -> Track:
    rng = np.random.default_rng([number, len(split)])
    samples = round(TRACK_S * SAMPLE_RATE_HZ)
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    stems = []
    for stem in range(STEMS):
        beat = time_s * rng.uniform(1, 4)
        tone = np.sin(2 * np.pi * rng.uniform(60, 800) * time_s) * np.exp(-3 * (beat % 1))
        sound = 0.1 * tone + 0.001 * rng.standard_normal(samples)
        stems.append(Stem(f"{stem:02d}", "other", sound.astype(np.float32)))
    return Track("bands", f"{split}-{number}", f"{split}-{number}", split, "none", stems, [])


@contextmanager
def timed(name: str, count: int, results: dict[str, float]) -> Iterator[None]:
    start = time.process_time()
    yield
    results[name] = count / (time.process_time() - start)
    print(f"{name:32} {results[name]:8.0f} pairs/s/core", flush=True)


def bare_render(drawn: pairs.Pairs, folder: Path) -> None:
    """Decode each track once, sum, round and write: what no renderer can do without."""
    folder.mkdir(exist_ok=True)
    for place in np.unique(drawn.rows["track"]):
        stems = tracks.read_stems(drawn.tracks[place])
        with (folder / f"{drawn.split}-{place}.pcm").open("wb") as file:
            for row in drawn.rows[drawn.rows["track"] == place]:
                moment = slice(row["start"], row["start"] + drawn.samples)
                for side in shards.SIDES:
                    mix = stems[pairs.stems_of(row[side]), moment].sum(axis=0)
                    file.write((mix * 32767).astype(np.int16).tobytes())


def stem_files(drawn: pairs.Pairs, folder: Path) -> Callable[[int], np.ndarray]:
    """Write each stem as a file, and return what mixes a pair from them."""
    folder.mkdir()
    for place, index in enumerate(drawn.tracks):
        for number, stem in enumerate(tracks.read_stems(index)):
            (folder / f"{place}-{number}.flac").write_bytes(audio.encode(stem))

    def mix(pair: int) -> np.ndarray:
        row = drawn.rows[pair]
        moment = slice(int(row["start"]), int(row["start"]) + drawn.samples)
        sides = [
            sum(
                audio.read_audio(folder / f"{row['track']}-{stem}.flac", frames=moment)[0][0]
                for stem in pairs.stems_of(row[side])
            )
            for side in shards.SIDES
        ]
        return np.stack(sides)

    return mix


def memory(counts: list[int]) -> None:
    """Peak of a rendering worker, in a process of its own for each number of tracks."""
    for count in counts:
        words = [sys.executable, __file__, "--peak", str(count)]
        peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        print(
            f"{count} tracks, {PAIRS_A_TRACK * count} pairs: peak {peak.split()[-1]} MiB (bar 1500)"
        )


def print_peak(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if os.fork() == 0:  # what makes the tracks is not to count
            prepare(root / "prepare" / "bands", count)
            os._exit(0)
        os.wait()
        render.run(settings("wav", PAIRS_A_TRACK * count), Paths(root))
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where some gigabytes are free")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory instead")
    parser.add_argument("--peak", type=int, help="print the peak memory for so many tracks alone")
    asked = parser.parse_args()
    if asked.peak:
        print_peak(asked.peak)
        return
    if asked.memory:
        memory([3, 9])
        return
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        root = Path(name)
        prepare(root / "prepare" / "bands", asked.tracks)
        for container in ("wav", "flac"):
            params, paths = settings(container, asked.pairs), Paths(root / container)
            paths.root.mkdir()
            (paths.root / "prepare").symlink_to(root / "prepare")
            with timed(f"render {container}", asked.pairs, found):
                render.run(params, paths)
            index = PairIndex.read(paths.render, "train")
            batches = Batches(index, params.train)
            epoch = batches.batches_an_epoch
            with timed(f"batches {container}", epoch * 64, found):
                for batch in islice(batches, epoch):
                    batch.to("cpu")
            with timed(f"stream {container}", asked.pairs, found):
                for batch in read_pairs(paths.render, "train", clip_s=PAIR_S, batch_pairs=64):
                    batch.to("cpu")
        drawn = pairs.plan(params, paths, "train")
        with timed("render, bare", asked.pairs, found):
            for split in tracks.SPLITS:
                bare_render(pairs.plan(params, paths, split), root / "bare")
        mix = stem_files(drawn, root / "stems")
        few = min(64, asked.pairs)
        with timed("batches from stem files", few, found):
            for pair in range(few):
                mix(pair)
    print(f"render wav costs {found['render, bare'] / found['render wav']:.2f} times the bare")
    ratio = found["batches wav"] / found["batches from stem files"]
    print(f"batches wav are {ratio:.0f} times as many as from stem files")


if __name__ == "__main__":
    main()
