"""What the headline does not say: more figures, both directions, all pairs, and which music.

Letters: N pairs, T trials, K candidates of a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from phalar.evaluate import keys, retrieval
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.measure import DIGITS, Group
from phalar.evaluate.retrieval import Floats, Integers, Trials
from phalar.params import Evaluate

RECALLS = (1, 5, 10)
FEW_STEMS = 4
"""Sub-mixes of so many stems or more are one group."""
TEMPO_EDGES = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)
"""Ratios of two tempi, the faster over the slower, up to an octave: where groups begin."""
KEY_EDGES = tuple(range(keys.FARTHEST_FIFTHS + 1))
"""Steps between two keys on the circle of fifths: each is a group."""
SEVERAL = "several"
ROWS = 256
"""Of a table of all pairs with all pairs, worked on at a time."""

Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a test pair."""

    song: str
    stems: int
    """In the anchor."""
    asks: tuple[str, ...]
    """Families of the anchor's instruments, each once, sorted."""
    targets: tuple[str, ...]
    """Families of the positive's instruments, each once, sorted."""
    tempo_bpm: float | None
    sharps: int | None
    """Place of the track's key on the circle of fifths, 0..11."""


def read_facts(
    folder: Path, split: str, sharps_of: Mapping[tuple[str, str], int]
) -> dict[int, Facts]:
    """Read what is known of a split's pairs, by their number; sharps are by source and track."""
    columns = ["pair", "source", "track", "song", "anchor_stems", "tempo_bpm"]
    columns += [f"{side}_instruments" for side in ("anchor", "positive")]
    table = pq.read_table(
        folder / "pairs.parquet", columns=columns, filters=[("split", "=", split)]
    )
    return {
        row["pair"]: Facts(
            song=row["song"],
            stems=len(row["anchor_stems"]),
            asks=tuple(sorted(set(row["anchor_instruments"]))),
            targets=tuple(sorted(set(row["positive_instruments"]))),
            tempo_bpm=row["tempo_bpm"],
            sharps=sharps_of.get((row["source"], row["track"])),
        )
        for row in table.to_pylist()
    }


def measure_details(
    groups: list[Group], facts: Mapping[int, Facts], settings: Evaluate
) -> dict[str, dict[str, Found]]:
    """Take everything apart that the model's scores say, by source and protocol.

    Parameters
    ----------
    groups : list of Group
        Trials, and how the model scores their pairs.
    facts : mapping of int to Facts
        Of all pairs.
    settings : Evaluate
        Seed and number of the resamples.

    Returns
    -------
    dict
        By source and protocol: `trials.<K>.<asks>` with top-1, recall@5, mean reciprocal rank and
        median rank; for all draws of pairs also `all.<asks>.<same_song>` with recall@1, 5 and 10
        among all pairs, top-1 in groups (`instruments`, `stems`), the share of
        other songs' stems that are beaten by their distance (`tempo`, `key`), and `confusion`.
        `asks` is the side that looks for its other, anchor or positive; `same_song` is with or
        without candidates of the own song. Each figure is followed by its 95 % interval.
    """

    def draw(songs: list[str]) -> Bootstrap:
        return Bootstrap(songs, resamples=settings.bootstrap, seed=settings.seed)

    found: dict[str, dict[str, Found]] = {}
    for group in groups:
        known = [facts[pair] for pair in group.pairs.tolist()]
        first = group.trials[0]
        entry: Found = {
            "trials": {
                str(t.candidates): _directions(group.scores, t, known, draw) for t in group.trials
            }
        }
        if first.protocol != "song":
            entry |= _among_all(group.scores, known, draw)
            largest = group.trials[-1]
            hits = retrieval.score_trials(group.scores, largest) == 0
            entry |= {
                "candidates": largest.candidates,
                "instruments": _by(hits, largest, known, lambda pair: pair.targets, draw),
                "stems": _by(hits, largest, known, lambda pair: (_few(pair.stems),), draw),
                "tempo": _by_tempo(group.scores, known, draw),
                "key": _by_key(group.scores, known, draw),
                "confusion": _confusion(group.scores, largest, known),
            }
        found.setdefault(first.source, {})[first.protocol] = entry
    return found


def _sides(scores: Floats) -> Iterator[tuple[str, Floats]]:
    yield "anchor", scores
    yield "positive", scores.T


def _directions(
    scores: Floats, trials: Trials, known: list[Facts], draw: Callable[[list[str]], Bootstrap]
) -> Found:
    """Ask the trials of one K from both sides."""
    bootstrap = draw([known[pair].song for pair in trials.anchors])
    return {
        asks: figures(retrieval.score_trials(seen, trials), trials.candidates, bootstrap)
        for asks, seen in _sides(scores)
    }


def figures(ranks: Integers, candidates: int, bootstrap: Bootstrap) -> Found:
    """Give every figure of some trials' ranks (T,), each with its 95 % interval.

    Returns
    -------
    dict
        `top1`, `recall5`, `mrr` as fractions, `median_rank` counted from one; for each also
        `<name>_low` and `<name>_high`; `trials` and `songs`.
    """
    means = {"top1": ranks == 0, "recall5": ranks < 5, "mrr": 1 / (1 + ranks)}
    found: Found = {}
    for name, values in means.items():
        found |= _with_ends(name, float(np.mean(values)), bootstrap.mean(values * 1.0))
    median = 1 + int(np.sort(ranks)[(len(ranks) - 1) // 2])
    found |= _with_ends("median_rank", median, bootstrap.median_rank(ranks, candidates))
    return found | {"trials": len(ranks), "songs": bootstrap.songs}


def _with_ends(name: str, value: float, ends: tuple[float, float]) -> Found:
    named = {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return {key: round(figure, DIGITS) for key, figure in named.items()}


def _among_all(scores: Floats, known: list[Facts], draw: Callable[[list[str]], Bootstrap]) -> Found:
    """Recall among all pairs of the test set, with and without those of the own song."""
    songs = [pair.song for pair in known]
    bootstrap = draw(songs)
    found: Found = {}
    for asks, seen in _sides(scores):
        for name, same_song in (("with", True), ("without", False)):
            ranks, others = retrieval.rank_among_all(seen, songs, same_song=same_song)
            entry: Found = {"candidates": round(float(np.mean(others)) + 1, 1)}
            for recall in RECALLS:
                hits = (ranks < recall) * 1.0
                ends = bootstrap.mean(hits)
                entry |= _with_ends(f"recall{recall}", float(hits.mean()), ends)
            found.setdefault(asks, {})[name] = entry
    return {"all": found}


def _few(stems: int) -> str:
    return str(stems) if stems < FEW_STEMS else f"{FEW_STEMS}+"


def _by(
    hits: Integers,
    trials: Trials,
    known: list[Facts],
    names: Callable[[Facts], tuple[str, ...]],
    draw: Callable[[list[str]], Bootstrap],
) -> Found:
    """Top-1 of the trials in each group; a trial is in every group that its pair names."""
    members: dict[str, list[int]] = {}
    for trial, pair in enumerate(trials.anchors.tolist()):
        for name in names(known[pair]):
            members.setdefault(name, []).append(trial)
    found: Found = {}
    for name in sorted(members):
        own = hits[members[name]] * 1.0
        bootstrap = draw([known[trials.anchors[trial]].song for trial in members[name]])
        found[name] = _with_ends("top1", float(own.mean()), bootstrap.mean(own))
        found[name] |= {"trials": len(own), "songs": bootstrap.songs}
    return found


def _by_tempo(scores: Floats, known: list[Facts], draw: Callable[[list[str]], Bootstrap]) -> Found:
    """How often a stem of another song loses to the true one, by how far apart their tempi are.

    Half and double tempo count as the same. Pairs of unknown tempo are left out.
    """
    tempo = np.log2([pair.tempo_bpm or np.nan for pair in known])

    def ratio(rows: slice) -> Floats:
        octaves = tempo[rows, None] - tempo
        found: Floats = 2 ** np.abs(octaves - np.round(octaves))
        return found

    return _by_distance(scores, known, ratio, TEMPO_EDGES, draw)


def _by_key(scores: Floats, known: list[Facts], draw: Callable[[list[str]], Bootstrap]) -> Found:
    """Tell the same by steps on the circle of fifths: of relative keys 0, of C and F sharp 6.

    The key is the whole track's, as the tempo is. Pairs of unknown key are left out.
    """
    sharps = np.array([np.nan if pair.sharps is None else pair.sharps for pair in known])

    def steps(rows: slice) -> Floats:
        return keys.fifths_apart(sharps[rows, None], sharps)

    return _by_distance(scores, known, steps, KEY_EDGES, draw)


def _by_distance(
    scores: Floats,
    known: list[Facts],
    distance: Callable[[slice], Floats],
    edges: Sequence[float],
    draw: Callable[[list[str]], Bootstrap],
) -> Found:
    """Share of the comparisons with other songs that the true stem wins, from edge to edge."""
    songs, place = np.unique([pair.song for pair in known], return_inverse=True)
    shape = len(songs), len(edges)
    won, total = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    # Some rows at a time: tables of all distances would take more memory than the scores.
    for first in range(0, len(scores), ROWS):
        rows = slice(first, first + ROWS)
        apart, own = distance(rows), place[rows, None]
        counted = np.isfinite(apart) & (own != place)
        beaten = np.diagonal(scores)[rows, None] > scores[rows]
        group = (own * len(edges) + np.searchsorted(edges, apart, side="right") - 1)[counted]
        won += np.bincount(group, beaten[counted], minlength=won.size).reshape(shape)
        total += np.bincount(group, minlength=won.size).reshape(shape)
    found: Found = {}
    for edge, wins, comparisons in zip(edges, won.T, total.T, strict=True):
        if (there := comparisons > 0).any():
            bootstrap = draw(songs[there].tolist())
            ends = bootstrap.share(wins[there], comparisons[there])
            entry = _with_ends("beaten", float(wins.sum() / comparisons.sum()), ends)
            entry |= {"comparisons": int(comparisons.sum()), "songs": bootstrap.songs}
            found[f"{edge:g}"] = entry
    return found


def _confusion(scores: Floats, trials: Trials, known: list[Facts]) -> dict[str, dict[str, int]]:
    """Count which instrument the model picks first where another one is right, or the same."""
    asked = scores[trials.anchors[:, None], trials.choices]
    first = trials.choices[np.arange(len(asked)), np.argmax(asked, axis=1)]
    counted: dict[str, Counter[str]] = {}
    for anchor, pick in zip(trials.anchors.tolist(), first.tolist(), strict=True):
        right, picked = (_family(known[pair]) for pair in (anchor, pick))
        counted.setdefault(right, Counter())[picked] += 1
    return {right: dict(sorted(counted[right].items())) for right in sorted(counted)}


def _family(pair: Facts) -> str:
    return pair.targets[0] if len(pair.targets) == 1 else SEVERAL
