"""When each stage last ran, how long it took and how it ended: `data/journal.json`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """The last run of one stage."""

    started: float
    """Seconds since 1970."""
    took_s: float | None
    """None until it has ended."""
    error: str | None
    """None where it ended well."""


def read(path: Path) -> dict[str, Entry]:
    """Return the last run of each stage; none where the journal is missing or damaged."""
    try:
        return {stage: Entry(**entry) for stage, entry in json.loads(path.read_text()).items()}
    except (FileNotFoundError, json.JSONDecodeError, TypeError, AttributeError):
        return {}


def write(path: Path, stage: str, entry: Entry) -> None:
    """Replace the entry of one stage."""
    entries = {**read(path), stage: entry}
    aside = path.with_suffix(f".{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps({key: asdict(value) for key, value in entries.items()}, indent=1))
    aside.replace(path)
