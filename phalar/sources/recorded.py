"""Recorded tracks: from the files of their stems to aligned mono sound, or a reason why not."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phalar import audio, fingerprint, tracks
from phalar.params import PrepareRecorded
from phalar.sources import Job
from phalar.tracks import Stem, Track

logger = logging.getLogger(__name__)

FULL_SCALE = 32767 / 32768
"""The loudest that 16 bits hold on both sides of zero."""

FAMILY_WORDS = {
    "voice": "voc vocal vocals voice voices vox singer choir soprano alto tenor backing",
    "drums": "drum drums drumkit kick snare hihat hat cymbals toms overheads",
    "percussion": "percussion perc conga congas shaker tambourine bongo cajon",
    "bass": "bass contrabass doublebass",
    "guitar": "guitar guitars gtr git",
    "piano": "piano keys keyboard rhodes clavinet",
    "organ": "organ hammond accordion harmonica",
    "strings": "strings string violin viola cello fiddle bowed",
    "brass": "brass trumpet trombone horn tuba",
    "reeds": "sax saxophone clarinet oboe bassoon reed reeds wind woodwind",
    "pipes": "flute piccolo recorder pipe whistle",
    "mallets": "marimba vibraphone xylophone glockenspiel mallets",
    "plucked": "banjo mandolin harp ukulele sitar koto plucked",
    "lead": "lead",
    "pad": "pad synth",
    "effects": "fx effects sfx",
}
"""Words in the names of stems that tell the family of the instrument."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stem to be, and the files that are its sum."""

    name: str
    instrument: str
    files: tuple[str, ...]
    """Below the source's download folder."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of a recorded track before any of its sound is decoded."""

    song: str
    parts: tuple[Part, ...]
    artist: str | None = None
    title: str | None = None
    split: str | None = None
    """As published; None where a hash decides."""
    licence: str | None = None
    """Where it is not that of the whole source."""
    rate_hz: int | None = None
    """What the headers must say; None where any rate may be."""

    @property
    def split_key(self) -> str | None:
        """What comes into one split: all of an artist, where that is known."""
        return self.artist


def family(name: str) -> str:
    """Guess the family of an instrument from the name of its stem; `other` where nothing tells."""
    words = re.findall("[a-z]+", name.lower())
    for word in reversed(words):
        for found, known in FAMILY_WORDS.items():
            if word in known.split():
                return found
    return "other"


def stem_names(wanted: Sequence[str]) -> list[str]:
    """Name stems `00-bass`, `01-lead-guitar` in order: plain words, and unique."""
    plain = (re.sub("[^A-Za-z0-9_-]+", "-", name).strip("-") or "stem" for name in wanted)
    return [f"{number:02d}-{name[:60]}" for number, name in enumerate(plain)]


def songs(scans: Sequence[Recording]) -> list[str]:
    """Name the song of each recording, as its source does."""
    return [scan.song for scan in scans]


def make(job: Job, scan: Recording, folder: Path, params: PrepareRecorded) -> Track:
    """Decode every stem to its end, mix down, resample, and align.

    Silent stems are left out, shorter ones end in silence, and all are lowered alike where one is
    beyond what 16 bits hold.

    Raises
    ------
    ValueError
        A file is damaged or not that of the receipt, a stem is much shorter than the others, or
        fewer than two stems are heard.
    """
    if not 2 <= len(scan.parts) <= tracks.MOST_STEMS:
        raise ValueError(
            f"{len(scan.parts)} stems, must be 2 to {tracks.MOST_STEMS}; complete or join them"
        )
    _verify(job, folder)
    sounds = {part: _sound(part, scan, folder, params) for part in scan.parts}
    quiet = 10 ** (params.silent_db / 20)
    heard = {part: sound for part, sound in sounds.items() if np.abs(sound).max(initial=0) > quiet}
    if not heard:
        raise ValueError(f"all {len(sounds)} stems are silent; get or export the track again")
    if len(heard) < 2:
        raise ValueError(f"1 audible stem of {len(sounds)}, a pair needs 2; complete the track")
    longest = _refuse_short(heard, params)
    peak = max(float(np.abs(sound).max()) for sound in heard.values())
    gain = np.float32(min(1.0, FULL_SCALE / peak))
    notes = [f"stem {part.name} is silent: left out" for part in sounds if part not in heard]
    if gain < 1:
        notes.append(f"lowered by {-20 * np.log10(gain):.2f} dB: its peak was {peak:.3f}")
    return Track(
        source=job.source,
        track=job.entry.track,
        song=job.song,
        split=job.split,
        licence=scan.licence or job.licence,
        stems=[
            Stem(part.name, part.instrument, _aligned(sound, longest, gain))
            for part, sound in heard.items()
        ],
        source_files=list(job.source_files),
        artist=scan.artist,
        title=scan.title,
        notes=notes,
    )


def hear(track: Track) -> dict[str, Any]:
    """Note what was done to a track, and a sketch of its sound, for `findings`."""
    mix = np.sum([stem.audio for stem in track.stems], axis=0)
    return {"notes": track.notes, "sketch": fingerprint.sketch(mix).tolist()}


def findings(
    heard: Mapping[str, dict[str, Any]], splits: Mapping[str, str], params: PrepareRecorded
) -> dict[str, Any]:
    """Tell which tracks of different splits sound alike, and what was done to tracks.

    Parameters
    ----------
    heard : dict
        What `hear` gave, by track.
    splits : dict
        Of each track.
    params : PrepareRecorded
    """
    sketches = {name: np.asarray(found["sketch"], np.uint32) for name, found in heard.items()}
    duplicates = [
        {"tracks": [a, b], "splits": [splits[a], splits[b]], "share": round(share, 3)}
        for a, b, share in fingerprint.alike(sketches, splits, least=params.duplicate)
    ]
    for found in duplicates:
        logger.warning("prepare: sound alike across splits: %s", found)
    notes = {name: found["notes"] for name, found in heard.items() if found["notes"]}
    return {"near_duplicates": duplicates, "notes": notes}


def _verify(job: Job, folder: Path) -> None:
    """Refuse files that are not those that were downloaded."""
    for name, sha256 in job.source_files:
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise ValueError(f"{name}: is missing; run the download stage again") from None
        if found != sha256:
            raise ValueError(
                f"{name}: has other bytes than the receipt says; run the download stage again"
            )


def _sound(part: Part, scan: Recording, folder: Path, params: PrepareRecorded) -> np.ndarray:
    """Sound of a stem: the sum of its files, each in silence where it has ended."""
    total = np.zeros(0, dtype=np.float32)
    for name in part.files:
        try:
            sound = audio.read_recorded(folder / name, longest_s=params.max_s, only_hz=scan.rate_hz)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from None
        if len(total) < len(sound):
            total, sound = sound, total
        total[: len(sound)] += sound
    return total


def _refuse_short(heard: dict[Part, np.ndarray], params: PrepareRecorded) -> int:
    """Return the longest length; refuse a stem that cannot be the same music."""
    longest = max(len(sound) for sound in heard.values())
    for part, sound in heard.items():
        if len(sound) < params.shortest_stem * longest:
            lengths_s = (len(sound) / audio.SAMPLE_RATE_HZ, longest / audio.SAMPLE_RATE_HZ)
            raise ValueError(
                f"{part.files[0]}: lasts {lengths_s[0]:.2f} s, the longest stem {lengths_s[1]:.2f} "
                f"s: less than shortest_stem = {params.shortest_stem:g} of it; it is cut, or the "
                f"rate in a header is wrong"
            )
    return longest


def _aligned(sound: np.ndarray, samples: int, gain: np.float32) -> np.ndarray:
    return (
        np.pad(sound, (0, samples - len(sound)))
        if gain == 1
        else np.pad(sound * gain, (0, samples - len(sound)))
    )
