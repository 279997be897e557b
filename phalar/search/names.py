"""What the path of a sound file tells: instrument, tempo and key, as loops are commonly named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

WORDS = {
    "drums": "drum drums kit kick snare hat hats hihat beat breakbeat toms tom cymbals overheads",
    "percussion": "percussion perc shaker tambourine conga congas bongo bongos clap claps timpani",
    "bass": "bass basses sub 808 subbass bassline upright",
    "guitar": "guitar guitars gtr gtrs egtr agtr strum ukulele banjo",
    "piano": "piano pianos rhodes wurlitzer wurli keys clavinet harpsichord epiano",
    "organ": "organ hammond b3 accordion harmonica",
    "mallets": "vibraphone vibes marimba xylophone glockenspiel celesta bells mallets",
    "strings": "strings string violin violins viola violas cello cellos contrabass orchestra",
    "plucked": "harp sitar koto plucked pluck plucks mandolin lute",
    "voice": "vocal vocals vox voice voices choir singer acapella soprano alto tenor",
    "brass": "brass trumpet trumpets trombone trombones tuba horn horns cornet",
    "reeds": "sax saxophone saxes clarinet oboe bassoon reeds",
    "pipes": "flute flutes piccolo recorder whistle pipes ocarina",
    "lead": "lead leads synth arp arpeggio melody saw",
    "pad": "pad pads atmosphere ambient drone texture",
    "effects": "fx sfx effect effects riser impact sweep noise",
}
"""Words of names by the family of instruments that they mean."""

_FAMILIES = {word: family for family, words in WORDS.items() for word in words.split()}
_TEMPO = re.compile(r"(?<![\d.])(\d{2,3}(?:\.\d+)?)[\s_-]*bpm(?![a-z])", re.IGNORECASE)
_KEY = re.compile(r"([A-G])([#b♯♭]?)(maj|major|min|minor|m)?")


@dataclass(frozen=True, slots=True)
class Told:
    """What a path tells of a sound; None where it says nothing."""

    instrument: str | None
    """A family of `phalar.sources.INSTRUMENTS`."""
    tempo_bpm: float | None
    key: str | None
    """Such as `A` or `F#m`."""


def read(path: str) -> Told:
    """Read what a path of `/` tells; what stands nearer to its end counts more."""
    place = PurePosixPath(path)
    parts = [place.stem, *(parent.name for parent in place.parents)]
    instrument = next(filter(None, map(_instrument, parts)), None)
    tempo = _TEMPO.search(place.stem)
    return Told(instrument, float(tempo[1]) if tempo else None, _key(place.stem))


def _instrument(name: str) -> str | None:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    joined = [word.lower() for word in (*reversed(words), *re.split(r"[^A-Za-z0-9]+", name))]
    return next((_FAMILIES[word] for word in joined if word in _FAMILIES), None)


def _key(name: str) -> str | None:
    # A lone letter is a key only with its mode, a sign, or at the end, where loops carry it.
    words = re.split(r"[\s_.()\[\]-]+", name)
    for place in range(len(words) - 1, -1, -1):
        match = _KEY.fullmatch(words[place])
        if match and (match[2] or match[3] or place == len(words) - 1 > 0):
            sign = {"♯": "#", "♭": "b"}.get(match[2], match[2])
            return f"{match[1]}{sign}{'m' if (match[3] or '') in ('m', 'min', 'minor') else ''}"
    return None
