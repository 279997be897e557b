"""How long a take-down request takes: a track, artist or licence among ten million pairs."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phalar.lineage import collect, trace
from phalar.params import Paths
from phalar.render.table import PAIRS_A_ROW_GROUP

TRACKS = 100_000
PAIRS_A_SHARD = 1_000
PAIRS_A_WRITE = 128 * PAIRS_A_ROW_GROUP
REPEATS = 5


def main() -> None:
    """Make the manifests of one large render, and search each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder) / "data")
        paths.render.mkdir(parents=True)
        track = np.random.default_rng(1).integers(TRACKS, size=pairs)
        make_pairs(paths.render / "pairs.parquet", track)
        manifest = paths.root / "tracks.parquet"
        record = {"tracks": [about(n) for n in np.unique(track).tolist()]}
        collect.write_manifest(manifest, collect.manifest(record, paths))
        wanted = trace.Wanted(track="made/t0000007")
        rows: list[tuple[str, Path, Callable[[], list[trace.Sighting]]]] = [
            (
                "pairs.parquet, --track",
                paths.render / "pairs.parquet",
                lambda: trace.search_render(paths, wanted),
            )
        ]
        for name, each in {
            "--track": wanted,
            "--file": trace.Wanted(file=about(7)["files"][0][:16]),
            "--artist": trace.Wanted(artist="artist 77"),
            "--licence": trace.Wanted(licence="NC"),
        }.items():
            rows.append(
                (f"tracks.parquet, {name}", manifest, lambda w=each: trace.search(manifest, w))
            )
        print(f"{pairs:,} pairs of {TRACKS:,} tracks")
        print("| searched | MB | tracks found | CPU s | wall s |")
        print("|---|---:|---:|---:|---:|")
        for name, path, search in rows:
            cpu_s, wall_s = [], []
            for _ in range(REPEATS):
                start, used = time.perf_counter(), time.process_time()
                found = search()
                wall_s.append(time.perf_counter() - start)
                cpu_s.append(time.process_time() - used)
            cells = [name, f"{path.stat().st_size / 1e6:.0f}", str(len(found))]
            cells += [f"{statistics.median(times):.2f}" for times in (cpu_s, wall_s)]
            print(f"| {' | '.join(cells)} |")


def about(number: int) -> dict[str, object]:
    """One track, as lineage.json has it; every hundredth has a licence of its own."""
    return {
        "source": "made",
        "track": f"t{number:07d}",
        "song": f"s{number:07d}",
        "artist": f"artist {number // 20}",
        "title": None,
        "licence": "CC-BY-NC-4.0" if number % 100 == 0 else "CC-BY-4.0",
        "split": "train",
        "pairs": 1,
        "files": [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4],
    }


def make_pairs(path: Path, track: np.ndarray) -> None:
    """Write a table of pairs as the render stage does, with the columns that a search may read."""
    names = pa.array([f"t{number:07d}" for number in range(TRACKS)])
    schema = pa.schema([(n, pa.string()) for n in ("split", "shard", "source", "track", "licence")])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(track), PAIRS_A_WRITE):
            here = track[start : start + PAIRS_A_WRITE]
            shards = (start + np.arange(len(here))) // PAIRS_A_SHARD
            columns = [
                pa.array(["train"] * len(here)),
                pa.array([f"train/{number:06d}.tar" for number in shards.tolist()]),
                pa.array(["made"] * len(here)),
                names.take(pa.array(here)),
                pa.array(["CC-BY-4.0"] * len(here)),
            ]
            table = pa.Table.from_arrays(columns, schema=schema)
            writer.write_table(table, row_group_size=PAIRS_A_ROW_GROUP)


if __name__ == "__main__":
    main()
