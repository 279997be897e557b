"""The table of pairs: for each where its sound is from, and where in the shards it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phalar.render.pairs import DRAWS, Pairs, stems_of
from phalar.render.shards import SIDES, Layout, key

PAIRS_A_ROW_GROUP = 8192

SCHEMA = pa.schema(
    [
        ("pair", pa.int64()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("track", pa.string()),
        ("song", pa.string()),
        ("licence", pa.string()),
        ("draw", pa.string()),
        ("start_samples", pa.int64()),
        ("samples", pa.int64()),
        ("anchor_stems", pa.list_(pa.string())),
        ("positive_stems", pa.list_(pa.string())),
        ("anchor_instruments", pa.list_(pa.string())),
        ("positive_instruments", pa.list_(pa.string())),
        ("tempo_bpm", pa.float32()),
        ("gain", pa.float32()),
        ("anchor_level_db", pa.float32()),
        ("positive_level_db", pa.float32()),
        ("anchor_offset", pa.int64()),
        ("anchor_bytes", pa.int64()),
        ("positive_offset", pa.int64()),
        ("positive_bytes", pa.int64()),
    ]
)
"""One row a pair: where its sound is from, and where in its shard the two sound files lie."""


def write(
    path: Path,
    parts: list[tuple[Pairs, Layout]],
    mixed: list[NDArray[Any]],
    members: list[NDArray[Any]],
) -> None:
    """Write the pairs of all splits in order.

    Parameters
    ----------
    path : Path
        Of the parquet.
    parts : list of (Pairs, Layout)
        One a split.
    mixed, members : lists of arrays
        `MIXED` and `MEMBERS` records of each split's pairs.
    """
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for (pairs, layout), notes, places in zip(parts, mixed, members, strict=True):
            for first in range(0, layout.pairs, PAIRS_A_ROW_GROUP):
                here = range(first, min(first + PAIRS_A_ROW_GROUP, layout.pairs))
                rows = [_row(pairs, layout, pair, notes[pair], places[pair]) for pair in here]
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def _row(pairs: Pairs, layout: Layout, pair: int, notes: Any, places: Any) -> dict[str, Any]:
    row = pairs.rows[pair]
    track = pairs.tracks[row["track"]]
    found = {
        "pair": pair,
        "split": pairs.split,
        "shard": layout.shard(pair // layout.pairs_per_shard),
        "key": key(pair),
        "source": track.source,
        "track": track.track,
        "song": track.song,
        "licence": track.licence,
        "draw": DRAWS[int(row["audible"])],
        "start_samples": int(row["start"]),
        "samples": pairs.samples,
        "tempo_bpm": track.tempo_bpm,
        "gain": float(notes["gain"]),
    }
    for number, side in enumerate(SIDES):
        stems = stems_of(row[side])
        found[f"{side}_stems"] = [track.stems[stem] for stem in stems]
        found[f"{side}_instruments"] = [track.instruments[stem] for stem in stems]
        found[f"{side}_level_db"] = float(notes["level_db"][number])
        found[f"{side}_offset"] = int(places["offset"][number])
        found[f"{side}_bytes"] = int(places["bytes"][number])
    return found
