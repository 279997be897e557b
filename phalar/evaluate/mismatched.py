"""Scores of pairs that do not belong together: what a calibrated score is measured against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from phalar import calibration, tracks, withdrawn
from phalar.audio import SAMPLE_RATE_HZ
from phalar.calibration import HOP_S, WINDOW_S
from phalar.evaluate.measure import Group, Measured
from phalar.evaluate.retrieval import Floats
from phalar.model import Phalar
from phalar.model.complex_layers import to_parts
from phalar.params import Paths
from phalar.tracks import TrackIndex

STRETCHES = 48
"""So many of each source are compared with each other."""

AUDIBLE_PEAK = 1e-3
TRIES = 20


def mismatched_scores(measured: Measured, song_of: Mapping[int, str]) -> list[Floats]:
    """Give for each source how the model scores sides of pairs that are of two songs.

    Of audible pairs where there are songs enough for such trials, else of the others.

    Parameters
    ----------
    measured : Measured
        From `measure`.
    song_of : mapping of int to str
        The song of each pair.
    """
    of_source: dict[str, Group] = {}
    for group in measured.groups:
        trials = group.trials[0]
        if trials.protocol == "songs" or trials.source not in of_source:
            of_source[trials.source] = group
    found = []
    for group in of_source.values():
        songs = np.array([song_of[pair] for pair in group.pairs.tolist()])
        found.append(group.scores[songs[:, None] != songs[None, :]])
    return found


def long_scores(model: Phalar, paths: Paths, source: str, *, split: str, seed: int) -> Floats:
    """Score long sub-mixes of different songs of one source, window by window.

    The windows of two songs are no fresh chances, since key and tempo last: how far the mean of
    many lies from the middle can only be measured on songs that go on.

    Parameters
    ----------
    model : Phalar
        In evaluation mode.
    paths, source : Paths, str
        Where the source's tracks lie.
    split : str
        Which of them are heard, as many windows of them as two songs at least have.
    seed : int
        Of what is drawn: songs, starts, and of which stems either side is the sum.

    Returns
    -------
    float array [shape=(pairs, W)]
        W is the largest of `calibration.COUNTS` that fits; with less than two songs of two windows
        there is none, (0, 0).
    """
    gone = withdrawn.read(paths.root.parent)
    known = [
        track
        for track in tracks.read_index(paths.prepare(source), split)
        if f"{source}/{track.track}" not in gone
    ]
    for windows in reversed(calibration.COUNTS):
        samples = round((WINDOW_S + (windows - 1) * HOP_S) * SAMPLE_RATE_HZ)
        there = [track for track in known if track.samples >= samples]
        if len({track.song for track in there}) < 2:
            continue
        sides, songs = _stretches(model, there, samples, np.random.default_rng(seed))
        if len(set(songs)) < 2:
            continue
        name = np.array(songs)
        other: Floats = _scores(model, sides)[name[:, None] != name[None, :]]
        return other
    return np.empty((0, 0))


def _stretches(
    model: Phalar, known: list[TrackIndex], samples: int, rng: np.random.Generator
) -> tuple[tuple[list[Tensor], list[Tensor]], list[str]]:
    """Embed two sub-mixes each of some stretches that are heard all along, and name their songs.

    A song comes again, from elsewhere, where there are too few.
    """
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    songs = []
    order = [known[place] for place in rng.permutation(len(known))]
    for track in [order[number % len(order)] for number in range(STRETCHES)]:
        stems = tracks.read_stems(track)
        for _ in range(TRIES):
            start = int(rng.integers(track.samples - samples + 1))
            here = stems[:, start : start + samples]
            both = [here[rng.random(len(here)) < 0.5].sum(axis=0) for _ in range(2)]
            if all(_is_heard_throughout(sound) for sound in both):
                for side, sound in zip(sides, both, strict=True):
                    side.append(to_parts(model.embed(_windows(sound), SAMPLE_RATE_HZ)))
                songs.append(track.song)
                break
    return sides, songs


def _is_heard_throughout(sound: Floats) -> bool:
    return bool((_windows(sound).max(axis=1) >= AUDIBLE_PEAK).all())


def _windows(sound: Floats) -> Floats:
    """Cut a stretch into its windows (W, N)."""
    size, hop = (round(time_s * SAMPLE_RATE_HZ) for time_s in (WINDOW_S, HOP_S))
    cut = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop]
    return np.asarray(cut)


def _scores(model: Phalar, sides: tuple[list[Tensor], list[Tensor]]) -> Floats:
    """Score the first side of each stretch with the second of each, (S, S, W)."""
    first_SWRD, second_SWRD = (torch.stack(side) for side in sides)
    with torch.no_grad():
        scores = [
            model.score_matrix(first_SRD, second_SRD, commutative=True)
            for first_SRD, second_SRD in zip(
                first_SWRD.unbind(1), second_SWRD.unbind(1), strict=True
            )
        ]
    return np.asarray(torch.stack(scores, dim=-1).cpu().numpy())
