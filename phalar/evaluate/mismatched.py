"""Scores of pairs that do not belong together: what a calibrated score is measured against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from phalar.evaluate.measure import Group, Measured
from phalar.evaluate.retrieval import Floats


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
