"""The lineage of a model as a record: read by registered name, by MLflow run, or by its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from phalar import registry, runlog

FORMAT = 2
FILE = registry.LINEAGE
TRACKS = "tracks.parquet"
"""Beside it: which shards hold each track."""

WEIGHTS = "model.safetensors"
RUN = re.compile(r"(runs:/)?[0-9a-f]{32}")

Record = dict[str, Any]


def read(name: str) -> Record:
    """Read the lineage of a model.

    Parameters
    ----------
    name : str
        A registered model (`phalar@champion`, `phalar/3`, `phalar`), an MLflow run (its id), a
        model.safetensors or its folder, or a lineage.json.

    Raises
    ------
    ValueError
        There is none, or it is not of this format.
    FileNotFoundError, ConnectionError
        There is no registry here, or it does not answer.
    """
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run the register stage (`make repro`)")
        return parse(path.read_text(), name)
    if path.suffix == ".safetensors" or (path / WEIGHTS).is_file():
        return _of_weights(path / WEIGHTS if path.is_dir() else path)
    if RUN.fullmatch(name):
        return parse(registry.fetch_lineage_of_run(name.removeprefix("runs:/")), name)
    return parse(registry.fetch_lineage(name), name)


def parse(text: str, name: str) -> Record:
    """Read a lineage.json that was found under a name; `ValueError` where it is none."""
    try:
        record = json.loads(text)
        found = record.get("format")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{name}: is not a lineage record ({error}); register again") from None
    if found != FORMAT:
        raise ValueError(f"{name}: format {found!r}, this version reads {FORMAT}; register again")
    return dict(record)


def _of_weights(path: Path) -> Record:
    """Find who registered these weights: the record beside them, else the registry."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a model.safetensors or a registered name")
    total = runlog.file_sha256(path)
    beside = path.parent.parent / "register" / FILE
    if beside.is_file():
        record = parse(beside.read_text(), str(beside))
        if record["model"]["sha256"] == total:
            return record
    return parse(registry.fetch_lineage_of_weights(total, str(path)), str(path))
