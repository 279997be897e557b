"""All figures of a model on the frozen trials, and of what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from phalar.evaluate import baselines, retrieval
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.hearing import Heard
from phalar.evaluate.retrieval import Floats, Integers, Trials
from phalar.params import Evaluate

MODEL = "model"

MOST_CANDIDATES = 128
"""Up to here the curves have every K, where there are so many pairs or songs."""

DIGITS = 6
"""Figures are kept to a millionth: more says nothing, and is hard to read."""


@dataclass(frozen=True, slots=True)
class Group:
    """Trials of one source and protocol, one a K, and how the model scores their pairs."""

    trials: list[Trials]
    """In order of K; rows and columns of `scores` number their pairs."""
    pairs: Integers
    """(N,)"""
    scores: Floats
    """(N, N)"""


@dataclass(slots=True)
class Measured:
    """What `measure` finds."""

    retrieval: dict[str, Any] = field(default_factory=dict)
    """Top-1, interval and reciprocal rank by source, protocol and K."""
    baselines: dict[str, Any] = field(default_factory=dict)
    """The same for each baseline by name."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Rows of scorer, source, protocol, candidates, top1."""
    groups: list[Group] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """How each trial ended for the model: rows of `ranks.SCHEMA`."""


def measure(
    heard: Heard,
    trials: list[Trials],
    song_of: Mapping[int, str],
    settings: Evaluate,
    *,
    score: Callable[[Heard, str], Floats],
) -> Measured:
    """Score all trials with the model and each baseline.

    Parameters
    ----------
    heard : Heard
        All pairs of the trials.
    trials : list of Trials
        In the order of `retrieval.read_trials`.
    song_of : mapping of int to str
        The song of each pair, unique within its source.
    settings : Evaluate
        Seed and number of the resamples.
    score : callable
        From pairs and the name of a scorer (`model` or a baseline) to scores (N, N).
    """
    found = Measured(baselines={name: {} for name in ("chance", *baselines.SCORERS)})
    for (source, protocol), members in groupby(trials, key=lambda t: (t.source, t.protocol)):
        group = list(members)
        pairs = np.unique(np.concatenate([t.choices.ravel() for t in group]))
        local = [t.among(pairs) for t in group]
        songs = [song_of[pair] for pair in pairs.tolist()]
        there = heard.among(pairs)
        bootstraps = [
            Bootstrap(
                [songs[anchor] for anchor in t.anchors],
                resamples=settings.bootstrap,
                seed=settings.seed,
            )
            for t in local
        ]
        for name in (MODEL, *baselines.SCORERS):
            scores = score(there, name)
            if name == MODEL:
                found.groups.append(Group(local, pairs, scores))
                found.ranks += [row for t in local for row in rank_rows(scores, t, pairs, songs)]
            table = found.retrieval if name == MODEL else found.baselines[name]
            table.setdefault(source, {})[protocol] = {
                str(t.candidates): summary(retrieval.score_trials(scores, t), drawn)
                for t, drawn in zip(local, bootstraps, strict=True)
            }
            for k, top1 in _expected(scores, songs, protocol):
                found.curve.append(_point(name, source, protocol, k, top1))
        found.baselines["chance"].setdefault(source, {})[protocol] = {
            str(t.candidates): baselines.chance(t.candidates, len(t.anchors)) for t in local
        }
    return found


def summary(ranks: Integers, bootstrap: Bootstrap) -> dict[str, float | int]:
    """Top-1 accuracy with its 95 % interval, and mean reciprocal rank, as fractions."""
    hits = (ranks == 0).astype(np.float64)
    low, high = bootstrap.mean(hits)
    found = {
        "top1": float(hits.mean()),
        "low": low,
        "high": high,
        "mrr": float(np.mean(1 / (1 + ranks))),
    }
    return {name: round(value, DIGITS) for name, value in found.items()} | {"trials": len(ranks)}


def rank_rows(
    scores: Floats, trials: Trials, pairs: Integers, songs: list[str]
) -> Iterator[dict[str, Any]]:
    """Give the rows of `ranks.SCHEMA` for trials, asked from both sides."""
    for asks, seen in (("anchor", scores), ("positive", scores.T)):
        ranked = retrieval.score_trials(seen, trials).tolist()
        for trial, (rank, asked) in enumerate(zip(ranked, trials.anchors.tolist(), strict=True)):
            yield {
                "source": trials.source,
                "protocol": trials.protocol,
                "candidates": trials.candidates,
                "asks": asks,
                "trial": trial,
                "pair": int(pairs[asked]),
                "song": songs[asked],
                "rank": rank,
            }


def _expected(scores: Floats, songs: list[str], protocol: str) -> Iterator[tuple[int, float]]:
    """Give K and the accuracy over all draws, for protocols of which it is known."""
    if protocol == "paper":
        ranked = retrieval.rank_among_all(scores, songs, same_song=True)
        expected = retrieval.expected_top1(*ranked, len(songs))
    elif protocol == "songs":
        most = min(MOST_CANDIDATES, len(set(songs)))
        expected = retrieval.expected_top1_songs(scores, songs, most)
    else:
        return
    for k, top1 in enumerate(expected.tolist(), start=1):
        # Beyond what a curve can show, doublings say as much.
        if k <= MOST_CANDIDATES or k.bit_count() == 1 or k == len(songs):
            yield k, top1


def _point(scorer: str, source: str, protocol: str, k: int, top1: float) -> dict[str, Any]:
    return {
        "scorer": scorer,
        "source": source,
        "protocol": protocol,
        "candidates": k,
        "top1": round(float(top1), DIGITS),
    }
