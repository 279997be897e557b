"""How sure a figure is: a bootstrap over songs, for one model and for two on the same trials.

Letters: T trials, S songs, R resamples, K places of a rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]

CONFIDENCE = 0.95

TINY = 1e-12
"""Product of two variances that is taken for none."""


class Bootstrap:
    """Resamples of the songs of some trials, drawn once for all figures about them.

    Trials of one song stand or fall together, so whole songs are drawn, with replacement. The same
    songs and seed give the same resamples, so that figures of two models are paired. Few songs make
    plain percentiles too narrow; these are moved outwards as Student's t and the n - 1 of a
    variance ask for. A single song says nothing of others: its intervals hold everything.

    Parameters
    ----------
    songs : sequence of str [length=T]
        The song of each trial.
    resamples : int
        R, how many times as many songs as there are are drawn.
    seed : int
        Decides the resamples.

    Notes
    -----
    The expanded percentile interval of T. Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69 (2015).
    """

    def __init__(self, songs: Sequence[str], *, resamples: int, seed: int) -> None:
        names, self._place, sizes = np.unique(songs, return_inverse=True, return_counts=True)
        self.songs = len(names)
        rng = np.random.default_rng(seed)
        chances = np.full(self.songs, 1 / self.songs)
        self._drawn = rng.multinomial(self.songs, chances, size=resamples)
        self._trials = self._drawn @ sizes

    def mean(self, values: Floats, *, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
        """95 % interval of the mean over all trials of values (T,) that lie within `bounds`."""
        return self._ends(self._means(values), bounds)

    def share(self, won: Floats, of: Integers) -> Interval:
        """95 % interval of the sum of values (T,) over the sum of what they are shares of, (T,)."""
        sums, totals = (np.bincount(self._place, v, minlength=self.songs) for v in (won, of))
        return self._ends(self._drawn @ sums / (self._drawn @ totals), (0.0, 1.0))

    def median_rank(self, ranks: Integers, candidates: int) -> Interval:
        """95 % interval of the median of ranks (T,), 0..K - 1, counted from one: 1..K."""
        counts = np.zeros((self.songs, candidates))
        np.add.at(counts, (self._place, ranks), 1)
        below = np.cumsum(self._drawn @ counts, axis=1)
        medians = 1 + np.argmax(2 * below >= self._trials[:, None], axis=1)
        return self._ends(medians, (1, candidates))

    def correlation(self, x: Floats, y: Floats) -> Interval:
        """95 % interval of Pearson's coefficient of two values a trial, (T,) each."""
        mean_x, mean_y = self._means(x), self._means(y)
        covariance = self._means(x * y) - mean_x * mean_y
        variances = (self._means(x * x) - mean_x**2) * (self._means(y * y) - mean_y**2)
        # A resample in which one of them is the same everywhere says nothing of how they go along.
        known = variances > TINY
        coefficients = covariance[known] / np.sqrt(variances[known])
        return self._ends(coefficients, (-1.0, 1.0)) if known.any() else (-1.0, 1.0)

    def p_value(self, differences: Floats) -> float:
        """Two-sided p of a mean difference of zero: below 0.05 just where the interval leaves it.

        Never smaller than the resamples can tell, and 1 where there is but one song.
        """
        if self.songs == 1:
            return 1.0
        means = self._means(differences)
        beyond = min(np.mean(means <= 0), np.mean(means >= 0))
        share = min(max(beyond, 1 / (1 + len(means))), 0.5)
        widened = ndtri(share) * np.sqrt((self.songs - 1) / self.songs)
        return float(2 * stdtr(self.songs - 1, widened))

    def _means(self, values: Floats) -> Floats:
        sums = np.bincount(self._place, values, minlength=self.songs)
        means: Floats = self._drawn @ sums / self._trials
        return means

    def _ends(self, resampled: Floats, bounds: tuple[float, float]) -> Interval:
        if self.songs == 1:
            return float(bounds[0]), float(bounds[1])
        edge = stdtrit(self.songs - 1, (1 - CONFIDENCE) / 2)
        tail = ndtr(edge * np.sqrt(self.songs / (self.songs - 1)))
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return float(low), float(high)


Interval = tuple[float, float]
"""Lower and upper end."""
