"""Stem retrieval: given a part of a song, find the stem that fits it in time and harmony."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phalar.infer import embed, embed_windows, load_model, percentile, score

__all__ = ["embed", "embed_windows", "load_model", "percentile", "score"]


def __getattr__(name: str) -> Any:
    """Import what a user calls when it is first asked for: torch takes a second or two."""
    if name not in __all__:
        raise AttributeError(f"module 'phalar' has no attribute {name!r}")
    from phalar import infer

    return getattr(infer, name)
