"""What a sound file says of itself: tempo and key in its tags, tempo in the header of a loop."""

from __future__ import annotations

import logging
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phalar.search.estimate import NAMES
from phalar.search.names import written

logger = logging.getLogger(__name__)

SLOWEST_BPM, FASTEST_BPM = 20.0, 400.0
"""What is beyond was not meant; many programs write 0 where they know nothing."""

_NAMED = re.compile(r"([A-Ga-g])([#b♯♭]?)\s*(major|maj|minor|min|m)?", re.IGNORECASE)
_ON_WHEEL = re.compile(r"(1[0-2]|[1-9])\s*([AB])", re.IGNORECASE)

_ACID = struct.Struct("<IHHfIHHf")
_ONE_SHOT = 1


@dataclass(frozen=True, slots=True)
class Tagged:
    """What the tags of a file say; None where they say nothing."""

    tempo_bpm: float | None = None
    key: str | None = None
    """Such as `A` or `F#m`."""


def need_reader() -> None:
    """Refuse to begin without the package that reads tags, rather than at the first file."""
    import tinytag  # noqa: F401


def read(path: Path) -> Tagged:
    """Read the tags of a file, in any of the forms that its format has.

    These are ID3 in MP3, WAV and AIFF, the comments of FLAC, Ogg and Opus, and in WAV `INFO` and
    `acid`, where programs that make loops write their tempo. What cannot be read says nothing:
    whether a file is broken is told by its sound.
    """
    # An index is searched without.
    from tinytag import TinyTag, TinyTagException

    try:
        # Its other work is to find out how long the file sounds, by reading much of it.
        other = TinyTag.get(path, duration=False).other
        in_header = _acid_tempo_bpm(path)
    except (TinyTagException, OSError) as error:
        logger.debug("%s: no tags read: %s", path, error)
        return Tagged()
    tempi = [tempo for text in other.get("bpm", []) if (tempo := _tempo_bpm(text))]
    keys = [key for text in other.get("initial_key", []) if (key := key_of(text))]
    return Tagged(next(iter(tempi), in_header), next(iter(keys), None))


def key_of(text: str) -> str | None:
    """Read a key as it is tagged: `Am`, `A minor`, `f#`, or `8A`, by its place on the wheel of DJs.

    A small letter alone is no minor key: programs write both.
    """
    text = text.strip()
    if place := _ON_WHEEL.fullmatch(text):
        # Each step on is a fifth up; 8B is C, and 8A its relative, a minor third below.
        minor = place[2].upper() == "A"
        return NAMES[((int(place[1]) - 8) * 7 - 3 * minor) % 12] + "m" * minor
    if (named := _NAMED.fullmatch(text)) is None:
        return None
    return written(named[1], named[2], named[3] or "")


def _tempo_bpm(text: str) -> float | None:
    try:
        return _likely(float(text.strip().replace(",", ".")))
    except ValueError:
        return None


def _likely(tempo_bpm: float) -> float | None:
    is_likely = math.isfinite(tempo_bpm) and SLOWEST_BPM <= tempo_bpm <= FASTEST_BPM
    return tempo_bpm if is_likely else None


def _acid_tempo_bpm(path: Path) -> float | None:
    """Read the tempo of a WAV file's `acid` chunk, unless it says that the sound is no loop."""
    with path.open("rb") as file:
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:] != b"WAVE":
            return None
        chunk = _chunk(file, b"acid", _ACID.size)
    if chunk is None:
        return None
    flags, *_, tempo_bpm = _ACID.unpack(chunk)
    return None if flags & _ONE_SHOT else _likely(tempo_bpm)


def _chunk(file: BinaryIO, name: bytes, size: int) -> bytes | None:
    """Find a chunk from here on, and give its first bytes; None where it is not, or is cut off."""
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == name:
            found = file.read(size)
            return found if length >= size and len(found) == size else None
        file.seek(length + length % 2, 1)
    return None
