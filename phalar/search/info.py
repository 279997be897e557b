"""What an index holds, how it is searched, and what of the library cannot be heard."""

from __future__ import annotations

from typing import Any

from phalar.search import codes
from phalar.search.store import Index


def summary(index: Index) -> dict[str, Any]:
    """Say what an index holds.

    `search` is `exact` or `approximate`; `recall` of the latter is measured on the index itself
    (`approximate.measure`), and null where there are no codes.
    """
    heard = [entry for entry in index.entries if entry.reason is None]
    rows = {(entry.first, entry.windows) for entry in heard}
    quality = codes.quality_of(index)
    near = quality is not None and quality.candidates is not None
    return {
        "index": str(index.folder),
        "library": str(index.facts.library),
        "model": index.facts.model,
        "model_sha256": index.facts.model_sha256,
        "window_s": index.facts.grid.window_s,
        "hop_s": index.facts.grid.hop_s,
        "files": len(heard),
        "broken": [
            {"path": entry.path, "reason": entry.reason}
            for entry in index.entries
            if entry.reason is not None
        ],
        "windows": sum(windows for _, windows in rows),
        "hours": sum(entry.seconds for entry in heard) / 3600,
        "megabytes": index.vectors.nbytes / 2**20,
        "search": "approximate" if near else "exact",
        "recall": None if quality is None else quality.recall,
        "candidates": None if quality is None else quality.candidates,
    }
