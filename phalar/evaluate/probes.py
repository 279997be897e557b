"""Beats and chords of whole pieces: which music is there, and what a model knows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from phalar.evaluate import beats, chords, pieces
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.pieces import Piece
from phalar.model import Phalar
from phalar.params import Evaluate, EvaluateBeats, EvaluateChords, Params, Paths


@dataclass(slots=True)
class Asked:
    """The pieces of a probe."""

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    """By source."""
    missing: dict[str, str] = field(default_factory=dict)
    """By the name of what is not among them: what to do."""


def held_out(params: Params, paths: Paths) -> dict[str, list[Piece]]:
    """List the held-out tracks of all sources; none of one that is not prepared here."""
    return {
        source: pieces.of_source(paths, source)
        if any(paths.prepare(source).glob(f"{pieces.SPLIT}-*.parquet"))
        else []
        for source in params.sources
    }


def for_beats(known: Mapping[str, list[Piece]], settings: EvaluateBeats, project: Path) -> Asked:
    """Choose one recording of each song that says where its beats are, and GTZAN's."""
    asked = _among(known, lambda piece: len(piece.beats_s) > 1, "where its beats are")
    for source, there in asked.pieces.items():
        asked.pieces[source] = pieces.one_a_song(there, settings.songs)
    if settings.gtzan is None:
        asked.missing["GTZAN"] = f"{pieces.GTZAN}, and name it in evaluate.beats.gtzan or --gtzan"
    else:
        asked.pieces["gtzan"] = pieces.of_gtzan(project / settings.gtzan)
    return asked


def for_chords(known: Mapping[str, list[Piece]], settings: EvaluateChords, project: Path) -> Asked:
    """Choose all recordings that say what their chords are, and GuitarSet's."""
    asked = _among(known, lambda piece: len(piece.chords) > 0, "what its chords are")
    for source, there in list(asked.pieces.items()):
        if len({piece.song for piece in there}) < 2:
            del asked.pieces[source]
            asked.missing[source] = "its held-out tracks are of one piece, and none can be held out"
    if settings.guitarset is None:
        asked.missing["GuitarSet"] = (
            f"{pieces.GUITARSET}, and name it in evaluate.chords.guitarset or --guitarset"
        )
    else:
        asked.pieces["guitarset"] = pieces.of_guitarset(project / settings.guitarset)
    return asked


def _among(known: Mapping[str, list[Piece]], says: Callable[[Piece], bool], what: str) -> Asked:
    asked = Asked()
    for source, listed in known.items():
        if there := [piece for piece in listed if says(piece)]:
            asked.pieces[source] = there
        else:
            asked.missing[source] = f"no held-out track of it is here that says {what}"
    return asked


def judge_beats(
    asked: Asked, model: Phalar, settings: EvaluateBeats, evaluate: Evaluate
) -> dict[str, Any]:
    """Track the beats of all pieces: see `beats.judge_sources`."""
    return beats.judge_sources(asked.pieces, model, seconds=settings.seconds, draw=_draw(evaluate))


def judge_chords(
    asked: Asked, model: Phalar, settings: EvaluateChords, evaluate: Evaluate
) -> dict[str, Any]:
    """Probe the chords of all pieces, source by source: see `chords.judge_pieces`."""
    return {
        source: chords.judge_pieces(
            listed, model, settings=settings, draw=_draw(evaluate), seed=evaluate.seed
        )
        for source, listed in asked.pieces.items()
    }


def probe(
    model: Phalar, known: Mapping[str, list[Piece]], evaluate: Evaluate, project: Path
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Ask for all that params.yaml wants.

    Parameters
    ----------
    model : Phalar
        In evaluation mode.
    known : mapping of str to list of Piece
        Of `held_out`.
    evaluate : Evaluate
        A section `beats` or `chords` that is null is left out.
    project : Path
        Where relative paths of params.yaml start.

    Returns
    -------
    found : dict
        `beats` and `chords`, by source.
    missing : dict
        `beats` and `chords`: what to do for data that are not there, by their name.
    """
    found: dict[str, Any] = {}
    missing: dict[str, dict[str, str]] = {}
    if (settings := evaluate.beats) is not None:
        asked = for_beats(known, settings, project)
        found["beats"] = judge_beats(asked, model, settings, evaluate)
        missing["beats"] = asked.missing
    if (chosen := evaluate.chords) is not None:
        asked = for_chords(known, chosen, project)
        found["chords"] = judge_chords(asked, model, chosen, evaluate)
        missing["chords"] = asked.missing
    return found, missing


def lines(missing: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Say what is not among the music of each probe, and what to do."""
    for probe_name, absent in missing.items():
        for name, advice in absent.items():
            yield f"{probe_name}: {name} is not among them; {advice}"


def _draw(evaluate: Evaluate) -> Callable[[list[str]], Bootstrap]:
    return partial(Bootstrap, resamples=evaluate.bootstrap, seed=evaluate.seed)
