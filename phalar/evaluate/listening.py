"""Does a score hear what people hear? Correlation with the ratings of a listening test.

Listeners rated a stem of a song, the true one or a generated one, heard with the rest of the mix.
Letters: I items (instrument, song, system), R resamples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phalar.evaluate.bootstrap import Bootstrap

Floats = NDArray[np.floating]
Item = tuple[str, str, str]
"""Instrument, song, system."""
Scores = dict[Item, float]

ORIGINAL = "gt"
SYSTEM_OF = {"og": ORIGINAL}
"""What the ratings call otherwise than the scores."""
RESULTS = "results_"


@dataclass(frozen=True, slots=True)
class Ratings:
    """What people think of I items, in the order of `items`."""

    items: list[Item]
    mean: Floats
    """(I,): mean over listeners of ratings that are standardised per listener and instrument."""
    ratings: int
    listeners: int

    def among(self, items: Collection[Item]) -> Ratings:
        """Keep some of the items; each rating is still standardised among all of its listener's."""
        kept = [place for place, item in enumerate(self.items) if item in items]
        own = [self.items[place] for place in kept]
        return replace(self, items=own, mean=self.mean[kept])


def correlate(
    folder: Path,
    *,
    resamples: int,
    seed: int,
    also: dict[str, Scores] | None = None,
    only: Collection[Item] | None = None,
) -> dict[str, Any]:
    """Correlate the scores of each model with the ratings, as the paper does.

    Ratings are standardised per listener and instrument and averaged per item. A model's scores are
    standardised per instrument over all items that it scored, rated or not. Both instruments are
    pooled. The control `original` knows nothing but whether a stem is the true one: what a model
    has over it shows among the generated stems only.

    Parameters
    ----------
    folder : Path
        With `user_ratings/results_*.json`, a file a listener, and `results_<model>.json`.
    resamples : int
        Bootstrap resamples of the songs behind each 95 % interval of Pearson's coefficient.
    seed : int
        Decides the resamples.
    also : dict, optional
        Scores of more models, by name.
    only : collection of Item, optional
        Rated items that count, so that a model that heard no more is compared on the same.

    Returns
    -------
    dict
        `ratings`, `listeners`, `items`, `songs`; `models.<name>` and `original` with `pearson`,
        `spearman`, `low`, `high`, and the same over generated stems only in `generated`.

    Raises
    ------
    ValueError
        A file is missing or damaged, or a rated item has no score.

    Notes
    -----
    Section 6 of arXiv 2605.03929. The published figures are neither correlations over single
    ratings nor per instrument.
    """
    rated = read_ratings(folder / "user_ratings")
    if only is not None:
        rated = rated.among(only)
    scores = {
        path.stem.removeprefix(RESULTS): _on_items(read_scores(path), rated, path.name)
        for path in sorted(folder.glob(f"{RESULTS}*.json"))
    }
    scores |= {name: _on_items(own, rated, name) for name, own in (also or {}).items()}
    if not scores:
        raise ValueError(f"{folder}: no {RESULTS}<model>.json; the authors' files have one a model")
    generated = np.array([system != ORIGINAL for _, _, system in rated.items])
    songs = np.array([song for _, song, _ in rated.items])
    parts = {
        part: (kept, Bootstrap(songs[kept].tolist(), resamples=resamples, seed=seed))
        for part, kept in (("all", np.full(len(songs), True)), ("generated", generated))
    }

    def figures(values: Floats, part: str) -> dict[str, float]:
        kept, bootstrap = parts[part]
        x, y = values[kept], rated.mean[kept]
        low, high = bootstrap.correlation(x, y)
        return {"pearson": pearson(x, y), "spearman": spearman(x, y), "low": low, "high": high}

    return {
        "ratings": rated.ratings,
        "listeners": rated.listeners,
        "items": len(rated.items),
        "songs": parts["all"][1].songs,
        "original": figures((~generated).astype(float), "all"),
        "models": {
            name: {**figures(values, "all"), "generated": figures(values, "generated")}
            for name, values in scores.items()
        },
    }


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's coefficient, -1..1; 0 where one of them is the same everywhere."""
    return float(np.mean(_standardised(x) * _standardised(y)))


def spearman(x: Floats, y: Floats) -> float:
    """Pearson's coefficient of the places, where equal values share the mean of theirs."""
    return pearson(_places(x), _places(y))


def _places(values: Floats) -> Floats:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    middles: Floats = np.cumsum(sizes) - (sizes - 1) / 2
    return middles[group]


def read_ratings(folder: Path) -> Ratings:
    """Read the ratings of all listeners and take the mean of each item.

    Raises
    ------
    ValueError
        There are none, or a file is not what `correlate` describes.
    """
    files = sorted(folder.glob(f"{RESULTS}*.json"))
    if not files:
        raise ValueError(f"{folder}: no {RESULTS}*.json; put the listeners' files there, one each")
    standard: dict[Item, list[float]] = {}
    for path in files:
        of_listener = list(_ratings(path))
        for instrument in sorted({item[0] for item, _ in of_listener}):
            own = [(item, value) for item, value in of_listener if item[0] == instrument]
            values = _standardised([value for _, value in own])
            for (item, _), value in zip(own, values.tolist(), strict=True):
                standard.setdefault(item, []).append(value)
    items = sorted(standard)
    means = np.array([np.mean(standard[item]) for item in items])
    return Ratings(items, means, sum(map(len, standard.values())), len(files))


def _ratings(path: Path) -> Iterator[tuple[Item, float]]:
    """Yield the items that one listener rated."""
    for row in _rows(_json(path), path, ("folder", "type", "scores")):
        if not isinstance(row["scores"], dict):
            raise ValueError(f"{path}: scores of {row['folder']!r} are no ratings by system")
        for system, value in row["scores"].items():
            item = (row["type"], row["folder"], str(SYSTEM_OF.get(system, system)))
            yield item, _number(value, path, item)


def read_scores(path: Path) -> Scores:
    """Read a model's score of every item.

    Raises
    ------
    ValueError
        The file is not what `correlate` describes, or scores an item twice.
    """
    instruments = _json(path)
    if not isinstance(instruments, dict):
        raise ValueError(f"{path}: must hold lists of scores by instrument")
    found: Scores = {}
    for instrument, rows in instruments.items():
        for row in _rows(rows, path, ("song",)):
            for system, value in row.items():
                if system == "song":
                    continue
                item = (instrument, row["song"], system)
                if item in found:
                    raise ValueError(f"{path}: {', '.join(item)} is scored twice")
                found[item] = _number(value, path, item)
    return found


def _on_items(scores: Scores, rated: Ratings, name: str) -> Floats:
    """Standardise a model's scores per instrument, and pick those of the rated items, (I,)."""
    missing = [item for item in rated.items if item not in scores]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of {len(rated.items)} rated items have no score, the first "
            f"is {', '.join(missing[0])}; `folder` of the ratings must equal `song` of the scores"
        )
    standard: Scores = {}
    for instrument in {item[0] for item in scores}:
        own = [item for item in scores if item[0] == instrument]
        values = _standardised([scores[item] for item in own])
        standard |= dict(zip(own, values.tolist(), strict=True))
    return np.array([standard[item] for item in rated.items])


def _standardised(values: Iterable[float]) -> Floats:
    """Shift and scale to mean 0 and variance 1; equal values say nothing and become 0."""
    array = np.array(list(values))
    spread = array.std()
    centred: Floats = array - array.mean()
    return centred / spread if spread > 0 else np.zeros_like(array)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error


def _rows(rows: Any, path: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list, each with the names that it must have."""
    if not isinstance(rows, list):
        raise ValueError(f"{path}: must hold a list of rows with {', '.join(names)}")
    for place, row in enumerate(rows):
        lacking = [name for name in names if not isinstance(row, dict) or name not in row]
        if lacking:
            raise ValueError(f"{path}: row {place} has no {lacking[0]!r}")
        yield row


def _number(value: Any, path: Path, item: Item) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: {', '.join(item)} is {value!r}, must be a finite number")
    return float(value)
