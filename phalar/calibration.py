"""What a score means: its percentile among pairs of music that do not belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "calibration.json"
"""Beside a model's weights, or in `data/evaluate` beside the line's `data/train`."""

FORMAT = 1

PERCENTS: NDArray[np.float64] = np.concatenate(
    (np.arange(99.0), np.linspace(99, 99.8, 9), np.linspace(99.9, 100, 11)), dtype=np.float64
)
"""Finer where good matches lie."""

DIGITS = 6

WINDOW_S, HOP_S = 5.0, 2.5
"""Long sound is heard in windows of the length that models are evaluated with, half overlapping."""

COUNTS = (2, 4, 8)
"""Means over so many windows are calibrated too: chance lies closer together there."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of mismatched pairs as quantiles, of one model."""

    model_sha256: str
    percents: NDArray[np.float64]
    """Rising from 0 to 100."""
    scores: NDArray[np.float64]
    """The score below which so many percent of the mismatched pairs lie."""
    means: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """The same of scores that are the mean over so many windows, one after the other."""

    def percentile(self, score: float, windows: int = 1) -> float | None:
        """Give the percentage of mismatched pairs that fit worse; None where none were there.

        Parameters
        ----------
        score : float
        windows : int
            Of how many windows it is the mean. Between those that were measured, quantiles are
            drawn in the logarithm of the number; more than the most count as these.
        """
        scores = self._scores(windows)
        return None if not len(scores) else float(np.interp(score, scores, self.percents))

    def _scores(self, windows: int) -> NDArray[np.float64]:
        known = {1: self.scores, **self.means}
        if windows == 1 or not self.means:
            return self.scores if windows == 1 else np.empty(0)
        below = max(count for count in known if count <= windows)
        above = min((count for count in known if count >= windows), default=below)
        if above == below:
            return known[below]
        share = np.log(windows / below) / np.log(above / below)
        drawn: NDArray[np.float64] = (1 - share) * known[below] + share * known[above]
        return drawn


def measure(
    scores: Sequence[NDArray[Any]], model_sha256: str, long: Sequence[NDArray[Any]] = ()
) -> Calibration:
    """Calibrate on the scores of mismatched pairs, each source counting alike.

    Parameters
    ----------
    scores : sequence of float array [shape=(pairs,)]
        Of each source, the scores of sub-mixes of different songs; of a single song there are none,
        and where no source has any nothing is calibrated.
    model_sha256 : str
        Digest of the weights that gave them.
    long : sequence of float array [shape=(pairs, W)]
        Of each source, the scores of longer sub-mixes of different songs, window by window.
    """
    means = {
        count: _quantiles([each[:, :count].mean(axis=1) for each in long if each.shape[1] >= count])
        for count in COUNTS
    }
    known = {count: quantiles for count, quantiles in means.items() if len(quantiles)}
    quantiles = _quantiles(scores)
    percents = PERCENTS if len(quantiles) else np.empty(0)
    return Calibration(model_sha256, percents, quantiles, known if len(quantiles) else {})


def _quantiles(scores: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    # So many quantiles of each that no source weighs more for having more pairs.
    even = np.linspace(0, 1, 10_001)
    found = [np.quantile(each, even) for each in scores if len(each)]
    return np.quantile(np.concatenate(found), PERCENTS / 100) if found else np.empty(0)


def as_record(calibration: Calibration) -> dict[str, Any]:
    """Give what JSON can hold; `from_record` turns it back."""
    return {
        "format": FORMAT,
        "model_sha256": calibration.model_sha256,
        "percents": [round(value, DIGITS) for value in calibration.percents.tolist()],
        "scores": [round(value, DIGITS) for value in calibration.scores.tolist()],
        "means": {
            str(count): [round(value, DIGITS) for value in scores.tolist()]
            for count, scores in calibration.means.items()
        },
    }


def from_record(record: Mapping[str, Any]) -> Calibration:
    """Check and take what `as_record` gave.

    Raises
    ------
    ValueError
        It is damaged.
    """
    try:
        percents, scores = (np.array(record[name], float) for name in ("percents", "scores"))
        # Those that were measured before there were means of windows have none.
        means = {int(n): np.array(each, float) for n, each in record.get("means", {}).items()}
        rising = all((np.diff(each) >= 0).all() for each in (scores, *means.values()))
        even = all(each.shape == percents.shape for each in (scores, *means.values()))
        if record["format"] != FORMAT or not (rising and even and (np.diff(percents) > 0).all()):
            raise ValueError("its columns do not rise together")
        return Calibration(str(record["model_sha256"]), percents, scores, means)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"damaged calibration ({error}); evaluate the model again") from error


def write(calibration: Calibration, folder: Path) -> None:
    """Write it into a folder: aside, then into place."""
    aside = folder / f"{FILE}.part"
    aside.write_text(json.dumps(as_record(calibration), indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / FILE)


def find(folder: Path, model_sha256: str) -> Calibration | None:
    """Find the calibration of the model in a folder; None where there is none of these weights.

    Raises
    ------
    ValueError
        A file is damaged.
    """
    for path in (folder / FILE, folder.parent / "evaluate" / FILE):
        if path.is_file():
            found = _read(path)
            # In a line that was trained again, the evaluation may still be that of the last model.
            if found.model_sha256 == model_sha256:
                return found
    return None


def _read(path: Path) -> Calibration:
    try:
        return from_record(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
