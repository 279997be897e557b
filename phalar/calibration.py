"""What a score means: its percentile among pairs of music that do not belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of mismatched pairs as quantiles, of one model."""

    model_sha256: str
    percents: NDArray[np.float64]
    """Rising from 0 to 100."""
    scores: NDArray[np.float64]
    """The score below which so many percent of the mismatched pairs lie."""

    def percentile(self, score: float) -> float | None:
        """Give the percentage of mismatched pairs that fit worse; None where none were there."""
        if not len(self.scores):
            return None
        return float(np.interp(score, self.scores, self.percents))


def measure(scores: Sequence[NDArray[Any]], model_sha256: str) -> Calibration:
    """Calibrate on the scores of mismatched pairs, each source counting alike.

    Parameters
    ----------
    scores : sequence of float array [shape=(pairs,)]
        Of each source, the scores of sub-mixes of different songs; of a single song there are none,
        and where no source has any nothing is calibrated.
    model_sha256 : str
        Digest of the weights that gave them.
    """
    # So many quantiles of each that no source weighs more for having more pairs.
    even = np.linspace(0, 1, 10_001)
    quantiles = [np.quantile(each, even) for each in scores if len(each)]
    if not quantiles:
        return Calibration(model_sha256, np.empty(0), np.empty(0))
    pooled = np.concatenate(quantiles)
    return Calibration(model_sha256, PERCENTS, np.quantile(pooled, PERCENTS / 100))


def as_record(calibration: Calibration) -> dict[str, Any]:
    """Give what JSON can hold; `from_record` turns it back."""
    return {
        "format": FORMAT,
        "model_sha256": calibration.model_sha256,
        "percents": [round(value, DIGITS) for value in calibration.percents.tolist()],
        "scores": [round(value, DIGITS) for value in calibration.scores.tolist()],
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
        rising = (np.diff(percents) > 0).all() and (np.diff(scores) >= 0).all()
        if record["format"] != FORMAT or not rising or percents.shape != scores.shape:
            raise ValueError("its columns do not rise together")
        return Calibration(str(record["model_sha256"]), percents, scores)
    except (KeyError, TypeError, ValueError) as error:
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
