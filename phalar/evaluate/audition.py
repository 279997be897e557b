"""Let a model hear a listening test: scores of its stems, in the form of the authors' files."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phalar import audio, progress
from phalar.evaluate.listening import RESULTS, SYSTEM_OF, Item, Scores
from phalar.model import Phalar

MIX = "mix"
"""Name of the file with all of the song but the instrument that is judged."""

SHORTEST_S = 0.5
"""What the model can hear."""

Part = tuple[str, str]
"""Instrument, song."""


@dataclass(frozen=True, slots=True)
class Sounds:
    """The sound files of a listening test."""

    mixes: dict[Part, Path]
    stems: dict[Item, Path]
    missing: list[Part]
    """Rated parts of songs without a folder."""


def find(folder: Path, rated: Collection[Item]) -> Sounds:
    """Find `<song>/<instrument>/mix.*` and, for each system, `<song>/<instrument>/<system>.*`.

    Songs, instruments and systems are called as in the ratings: `og` is the true stem. Any format
    that libsndfile reads will do. Stems that nobody rated count too, as in the authors' files:
    a model's scores are standardised over all of them.

    Parameters
    ----------
    folder : Path
        With a sub-folder a song.
    rated : collection of Item
        What there are ratings of.

    Raises
    ------
    ValueError
        An instrument of a song is there, but a file of it is missing or there twice; or none is.
    """
    word_of = {system: word for word, system in SYSTEM_OF.items()}
    systems = sorted({system for _, _, system in rated})
    mixes, stems = {}, {}
    for song in sorted(path for path in folder.iterdir() if path.is_dir()):
        for instrument in sorted({instrument for instrument, _, _ in rated}):
            if not (song / instrument).is_dir():
                continue
            mixes[instrument, song.name] = _only(song / instrument, MIX)
            for system in systems:
                file = _only(song / instrument, word_of.get(system, system))
                stems[instrument, song.name, system] = file
    parts = sorted({item[:2] for item in rated})
    missing = [part for part in parts if part not in mixes]
    if len(missing) == len(parts):
        first = "/".join(reversed(missing[0]))
        raise ValueError(
            f"{folder}: no sound of the test, such as {first}/{MIX}.wav; it needs a "
            "folder a song, in it one an instrument, and in that mix, og, sac, stage and moises"
        )
    return Sounds(mixes, stems, missing)


def _only(place: Path, name: str) -> Path:
    """Find the one file of a name, whatever its format."""
    files = sorted(path for path in place.iterdir() if path.stem == name and path.is_file())
    if len(files) != 1:
        what = f"there are {', '.join(file.name for file in files)}" if files else "no such file"
        raise ValueError(f"{place / name}.*: {what}; one sound file of that name must be there")
    return files[0]


def score(model: Phalar, sounds: Sounds, *, seconds: float) -> Scores:
    """Score each stem with the rest of its mix: the mean over windows, one after the other.

    Mix and stems are cut to the shortest of them, so that all systems are judged by the same
    moments. What is left after the last whole window is not heard, unless the sound is shorter
    than one window.

    Parameters
    ----------
    model : Phalar
        In evaluation mode.
    sounds : Sounds
        From `find`.
    seconds : float
        Length of a window: about what the model was trained on.

    Raises
    ------
    ValueError
        A file cannot be decoded, or is under 0.5 s.
    """
    found: Scores = {}
    with progress.track(len(sounds.mixes), "listening", unit="parts") as tick:
        for part, mix in sounds.mixes.items():
            items = [item for item in sounds.stems if item[:2] == part]
            files = [mix, *(sounds.stems[item] for item in items)]
            z_FWD = _embed(model, files, seconds)
            scores_FW = model.score(z_FWD[:1], z_FWD[1:])
            found |= dict(zip(items, scores_FW.mean(dim=1).tolist(), strict=True))
            tick()
    return found


def _embed(model: Phalar, files: list[Path], seconds: float) -> Tensor:
    """Embed the windows that sounds have in common: F files, W windows, D dimensions."""
    waves = [audio.load_mono(path) for path in files]
    shortest = min(len(wave) for wave in waves)
    window = min(round(seconds * audio.SAMPLE_RATE_HZ), shortest)
    if window < SHORTEST_S * audio.SAMPLE_RATE_HZ:
        length_s = shortest / audio.SAMPLE_RATE_HZ
        raise ValueError(
            f"{files[0].parent}: its shortest sound has {length_s:.2f} s, must be {SHORTEST_S} s "
            "or more; replace it"
        )
    windows = shortest // window
    heard = np.concatenate([wave[: windows * window].reshape(windows, window) for wave in waves])
    return model.embed(heard, audio.SAMPLE_RATE_HZ).reshape(len(files), windows, -1)


def write(path: Path, scores: Scores) -> None:
    """Write scores as the authors do: lists of songs by instrument, with a score a system."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for (instrument, song, system), value in sorted(scores.items()):
        rows.setdefault(instrument, {}).setdefault(song, {"song": song})[system] = value
    laid = {instrument: list(songs.values()) for instrument, songs in rows.items()}
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(laid, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def file_of(folder: Path, name: str) -> Path:
    """Say where the scores of a model lie."""
    return folder / f"{RESULTS}{name}.json"
