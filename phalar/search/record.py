"""What is said of a candidate, in JSON of the command and of the API."""

from __future__ import annotations

from typing import Any

from phalar import infer
from phalar.model import Phalar
from phalar.search.query import Found


def record(model: Phalar, found: Found) -> dict[str, Any]:
    """Say of a candidate all that is known; its path is that below the library's folder."""
    entry = found.entry
    return {
        "path": entry.path,
        "score": round(found.score, 6),
        "percentile": infer.percentile(model, found.score, windows=found.windows),
        "start_s": round(found.start_s, 3),
        "seconds": round(entry.seconds, 3),
        "instrument": entry.instrument,
        "tempo_bpm": None if entry.tempo_bpm is None else round(entry.tempo_bpm, 1),
        "tempo_from": entry.tempo_from,
        "key": entry.key,
        "key_from": entry.key_from,
        "transpose_st": found.transpose_st,
        "stretch": found.stretch,
    }
