"""What fits a mix, from which start and changed how: found among the windows, then heard closely.

Windows lie 2.5 s apart, and a score falls within a twentieth of a second: a candidate that fits is
hardly ever cut where the mix is. So the mix is moved against the windows in small steps, which
finds the files; these are heard again around the starts found, for the best one and its score.

Letters: W windows of the mix.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from phalar.audio import SAMPLE_RATE_HZ
from phalar.search.along import moved_queries
from phalar.search.change import NONE, Change, changed, read_from
from phalar.search.moment import Floats, Mix, query_vectors, windows_of
from phalar.search.query import Found, Searcher, Wanted
from phalar.search.windows import Sound

if TYPE_CHECKING:
    from phalar.model import Phalar

logger = logging.getLogger(__name__)

STEPS, LEAST = 7, 2
"""The mix is moved by so many steps of the backbone, 2.2 s: nearly from one window of the index to
the next. By the latter, a beat or so, a mix is that is changed."""

STARTS = 3
"""Of a file, so many starts are heard."""

APART_S = 0.1
"""Starts nearer to each other are one."""

CLOSELY = 12
"""So many files are heard around their start, others at it alone."""

AROUND_S = 0.025

AT_ONCE = 32
"""Windows that are cut out of candidates at a time."""

OVER_S = 0.5
"""A candidate may end so much before the mix does."""

Scorer = Callable[[Iterable[Sound]], list[float]]


def fit(
    model: Phalar,
    searcher: Searcher,
    mix: Mix,
    wanted: Wanted,
    tried: Sequence[Change] = (NONE,),
    *,
    refine: bool = True,
) -> list[Found]:
    """Find what fits, and rank the files by the score of what would be heard.

    Parameters
    ----------
    model : Phalar
        That the index was made with.
    searcher : Searcher
        Of the index.
    mix : Mix
        From `read_moment`.
    wanted : Wanted
        Which files, and how many.
    tried : sequence of Change
        From `change.changes`; the first is none.
    refine : bool
        Find starts to a few milliseconds rather than those of the windows. It costs about eighty
        embeddings of W windows, a second on a core.

    Returns
    -------
    list of Found
        Best first, each file once. Scores are those of the mix and the file from its start. A
        change is named only where it makes a file fit better.
    """
    grid = searcher.index.facts.grid
    few = max(1, AT_ONCE // len(windows_of(mix.sound, grid)))

    @cache
    def vectors() -> Floats:
        return query_vectors(model, windows_of(mix.sound, grid))

    def score(sounds: Iterable[Sound]) -> list[float]:
        scores: list[float] = []
        # They may be read as they are asked for, so that never all of them lie in memory.
        waiting = iter(sounds)
        while some := list(islice(waiting, few)):
            windows = np.concatenate([windows_of(sound, grid) for sound in some])
            z = model.search_vectors(model.embed(windows, SAMPLE_RATE_HZ)).cpu().numpy()
            products = (z.reshape(len(some), -1, z.shape[-1]) * vectors()).sum(axis=-1)
            scores += products.mean(axis=1).tolist()
        return scores

    candidates: dict[str, list[Found]] = {}
    for change in tried:
        steps = (STEPS if change == NONE else LEAST) if refine else 0
        here = _moved(model, searcher, changed(mix, change), wanted, steps)
        for path, found in here.items():
            known = candidates.setdefault(path, [])
            if change == NONE:
                known += found[:STARTS]
            # What it would score is a forecast; what counts is heard below.
            elif not known or found[0].score > known[0].score:
                st, stretch = change.transpose_st, change.stretch
                known.append(replace(found[0], transpose_st=st, stretch=stretch))
    order = sorted(candidates, key=lambda path: -max(f.score for f in candidates[path]))
    some = [found for path in order[: max(wanted.top, CLOSELY)] for found in candidates[path]]
    # Without moves and changes, scores are exact already.
    heard = [found for found in some if refine or found.is_changed]
    known = [found for found in some if not (refine or found.is_changed)]
    ranked = _best_of([*known, *_heard(searcher, mix, heard, wanted, score)])
    if refine:
        closely = _closely(searcher, mix, ranked[:CLOSELY], score)
        ranked = _best_of([*closely, *ranked[CLOSELY:]])
    return ranked[: wanted.top]


def _moved(
    model: Phalar, searcher: Searcher, mix: Mix, wanted: Wanted, steps: int
) -> dict[str, list[Found]]:
    """Search with the mix moved to some places; by file the best starts, best first."""
    grid = searcher.index.facts.grid
    shifts, queries = moved_queries(model, mix, grid, steps)
    by_path: dict[str, list[Found]] = {}
    for shift, found_here in zip(shifts, searcher.search(queries, wanted), strict=True):
        for found in found_here:
            start_s = found.start_s - shift / SAMPLE_RATE_HZ
            if grid.is_loop(found.entry.seconds):
                start_s %= found.entry.seconds
            end_s = start_s + mix.samples / SAMPLE_RATE_HZ
            is_within = start_s >= 0 and end_s <= found.entry.seconds + OVER_S
            if shift == 0 or is_within or grid.is_loop(found.entry.seconds):
                by_path.setdefault(found.entry.path, []).append(replace(found, start_s=start_s))
    return {path: _apart(found) for path, found in by_path.items()}


def _apart(found: list[Found]) -> list[Found]:
    """Best first, without those that start nearly where a better one does."""
    kept: list[Found] = []
    for each in sorted(found, key=lambda each: -each.score):
        if all(abs(each.start_s - other.start_s) > APART_S for other in kept):
            kept.append(each)
    return kept


def _heard(
    searcher: Searcher, mix: Mix, found: list[Found], wanted: Wanted, score: Scorer
) -> list[Found]:
    """Score candidates as they sound from their starts.

    Where a file is gone, a copy of it that is wanted too takes its place; else it is left out.
    """
    there: list[Found] = []
    left_out: set[str] = set()

    def sounds() -> Iterator[Sound]:
        for each in found:
            reasons = []
            for entry in chain([each.entry], searcher.copies(each.entry, wanted)):
                here = replace(each, entry=entry)
                try:
                    sound = read_from(searcher, here, mix.samples)
                except (ValueError, OSError) as error:
                    reasons.append(error)
                    continue
                there.append(here)
                yield sound
                break
            else:
                if each.entry.path not in left_out:
                    left_out.add(each.entry.path)
                    why = f"left out: {reasons[0]}; `phalar index update` looks what is there"
                    logger.warning("%s", why)

    scores = score(sounds())
    windows = len(windows_of(mix.sound, searcher.index.facts.grid))
    return [
        replace(each, score=value, windows=windows)
        for each, value in zip(there, scores, strict=True)
    ]


def _closely(searcher: Searcher, mix: Mix, found: list[Found], score: Scorer) -> list[Found]:
    """Hear candidates just before and after their starts, and where a parabola has its top.

    One that cannot be read again stays as it was heard.
    """
    around = round(AROUND_S * SAMPLE_RATE_HZ)
    near, wide, heard = [], [], []
    for each in found:
        earlier = replace(each, start_s=each.start_s - 2 * AROUND_S * each.stretch)
        try:
            wide.append(read_from(searcher, earlier, mix.samples + 4 * around))
            near.append(each)
        except (ValueError, OSError) as error:
            logger.warning("%s; its start is that of before", error)
            heard.append(each)

    def at(offsets: list[int]) -> list[float]:
        return score(
            sound[2 * around + offset :][: mix.samples]
            for sound, offset in zip(wide, offsets, strict=True)
        )

    before, after = (at([offset] * len(near)) for offset in (-around, around))
    tops = []
    for each, low, high in zip(near, before, after, strict=True):
        bend = low + high - 2 * each.score
        top = (low - high) / (2 * bend) if bend < 0 else float(np.sign(high - low))
        tops.append(round(float(np.clip(top, -2, 2)) * around))
    grid = searcher.index.facts.grid
    for place, (each, offset, value) in enumerate(zip(near, tops, at(tops), strict=True)):
        starts = {0: each.score, -around: before[place], around: after[place], offset: value}
        for moved, scored in starts.items():
            start_s = each.start_s + moved / SAMPLE_RATE_HZ * each.stretch
            if grid.is_loop(each.entry.seconds):
                start_s %= each.entry.seconds
            if start_s >= 0 or moved == 0:
                heard.append(replace(each, start_s=start_s, score=scored))
    return _best_of(heard)


def _best_of(found: Sequence[Found]) -> list[Found]:
    """Rank the files, each by its best candidate; one that is not changed goes before its equal."""
    best: dict[str, Found] = {}
    for each in sorted(found, key=lambda each: (-each.score, each.is_changed)):
        best.setdefault(each.entry.path, each)
    return sorted(best.values(), key=lambda each: (-each.score, each.entry.path))
