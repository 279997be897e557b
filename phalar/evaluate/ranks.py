"""How each trial ended, as a table beside the figures: what two models are compared by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RANKS = "ranks.parquet"
"""Lies beside metrics.json."""

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("protocol", pa.string()),
        ("candidates", pa.int16()),
        ("asks", pa.string()),
        ("trial", pa.int32()),
        ("pair", pa.int64()),
        ("song", pa.string()),
        ("rank", pa.int16()),
    ]
)
"""A row a trial and direction; `asks` is the side that looks for its other, anchor or positive;
`rank` counts the candidates that the true one does not beat: 0 is a hit."""

TRIAL_COLUMNS = ("source", "protocol", "candidates", "asks", "trial", "pair", "song")
QUESTION = b"question"
"""Where the metadata of the file holds what was asked: equal for two models on the same trials."""


def question(folder: Path, split: str, clip_s: float) -> str:
    """Digest what the model is asked: the trials of a split, its pairs, and how much is heard.

    Parameters
    ----------
    folder : Path
        Of the render stage.
    split : str
    clip_s : float
        Seconds of each pair that the model hears.
    """
    digest = hashlib.sha256(repr(clip_s).encode())
    for name in ("trials.parquet", "pairs.parquet"):
        for row in pq.read_table(folder / name, filters=[("split", "=", split)]).to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def table(rows: list[dict[str, Any]], asked: str) -> pa.Table:
    """Put rows of `SCHEMA` together with what was asked, as `question` gives it."""
    return pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({QUESTION: asked})


def write(path: Path, made: pa.Table) -> None:
    """Write aside and put into place."""
    aside = path.with_name(path.name + ".part")
    pq.write_table(made, aside, compression="zstd")
    aside.replace(path)


def read(path: Path) -> pa.Table:
    """Read the ranks that an evaluation left.

    Parameters
    ----------
    path : Path
        `ranks.parquet`, or the folder in which it lies.

    Raises
    ------
    ValueError
        The file is missing, damaged, or something else.
    """
    file = path / RANKS if path.is_dir() else path
    try:
        found = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: missing or damaged ({error}); evaluate again") from error
    if found.schema.remove_metadata() != SCHEMA or QUESTION not in (found.schema.metadata or {}):
        raise ValueError(f"{file}: not the ranks of an evaluation; evaluate again")
    return found
