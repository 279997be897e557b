"""Hear a candidate in context: mix and candidate aligned, at matched loudness; and its own file."""

from __future__ import annotations

import logging
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchaudio import functional

from phalar import audio
from phalar.search.change import read_from
from phalar.search.query import Found, Searcher
from phalar.search.windows import Sound

logger = logging.getLogger(__name__)

PEAK = 0.97
"""A rendering stays just below full scale."""

CANDIDATE_DB = -3.0
"""A candidate is so much softer than the mix: heard well, without covering it."""

MOST_GAIN_DB = 30.0

NAME_BYTES = 200
"""A name is cut there: file systems take 255 bytes, with its number and what it ends in."""


def loudness_db(sound: Sound) -> float:
    """Loudness after ITU-R BS.1770, in LUFS; digital silence is at -70, the gate of the norm."""
    wave = torch.from_numpy(np.ascontiguousarray(sound, np.float32))[None]
    value = float(functional.loudness(wave, audio.SAMPLE_RATE_HZ))
    return value if np.isfinite(value) else -70.0


def matched(mix: Sound, candidate: Sound) -> Sound:
    """Bring a candidate to the loudness that fits a mix."""
    gain_db = loudness_db(mix) + CANDIDATE_DB - loudness_db(candidate)
    return candidate * np.float32(10 ** (min(gain_db, MOST_GAIN_DB) / 20))


def limited(sound: Sound) -> Sound:
    """Make a sound softer where it goes beyond full scale."""
    return sound * np.float32(PEAK / max(float(np.abs(sound).max(initial=0.0)), PEAK))


def in_context(mix: Sound, candidate: Sound) -> Sound:
    """Sum a mix and a candidate of the same length, the candidate at the loudness that fits."""
    return limited(mix + matched(mix, candidate))


def render(searcher: Searcher, found: Found, mix: Sound) -> Sound:
    """Play a candidate from its best start together with the mix."""
    return in_context(mix, read_from(searcher, found, len(mix)))


def export(searcher: Searcher, found: Sequence[Found], mix: Sound, folder: Path) -> list[Path]:
    """Write the original file of each candidate, and beside it how it sounds in context.

    Parameters
    ----------
    searcher : Searcher
        Of the index that was searched.
    found : sequence of Found
        Best first; their place becomes part of the names.
    mix : float32 array [shape=(N,)]
        The moment that was searched for.
    folder : Path
        Made where missing.

    Returns
    -------
    list of Path
        For each candidate its copy, byte for byte, and the rendering (WAV, 16 kHz); of one that
        cannot be read any more neither, which is said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, each in enumerate(found, start=1):
        source = searcher.index.path_of(each.entry)
        name = f"{place:02d}-{safe_name(source.stem)}"
        copy = folder / f"{name}{source.suffix.lower()}"
        aside = copy.with_name(copy.name + ".part")
        try:
            heard = audio.encode(render(searcher, each, mix), container="WAV")
            with source.open("rb") as original, aside.open("wb") as file:
                shutil.copyfileobj(original, file)
        except (ValueError, OSError) as error:
            if source.is_file() and not isinstance(error, ValueError):
                raise
            logger.warning("not exported: %s", error)
            continue
        aside.replace(copy)
        rendering = folder / f"{name}.in-context.wav"
        rendering.write_bytes(heard)
        written += [copy, rendering]
    return written


def safe_name(name: str) -> str:
    """Make of any name one that every file system takes."""
    safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._")
    # A letter of which the cut leaves only some bytes is dropped.
    return safe.encode()[:NAME_BYTES].decode(errors="ignore").rstrip("._") or "stem"
