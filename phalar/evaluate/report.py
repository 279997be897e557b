"""The report: one self-contained page with all figures, plots, and a few trials to listen to."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray

from phalar import audio
from phalar.evaluate import ablation, plots, templates
from phalar.evaluate.measure import Group, Measured
from phalar.evaluate.retrieval import Trials, score_trials
from phalar.evaluate.sensitivity import UNITS
from phalar.params import Params, Paths
from phalar.tracks import SPLITS
from phalar.train.batches import read_pairs

TEMPLATE = "report.html.jinja"

PAPER = {
    "PHALAR (2.3 M parameters)": {
        "MoisesDB": {8: 86.79, 16: 81.49, 64: 70.87},
        "Slakh2100": {8: 87.69, 16: 83.28, 64: 72.37},
        "CocoChorales": {8: 99.65, 16: 99.45, 64: 98.61},
    },
    "COCOLA (5.2 M parameters)": {
        "MoisesDB": {8: 75.81, 16: 64.44, 64: 41.84},
        "Slakh2100": {8: 79.33, 16: 71.58, 64: 55.84},
        "CocoChorales": {8: 97.82, 16: 96.02, 64: 89.34},
    },
}
"""Top-1 % of arXiv 2605.03929, 5 s clips, protocol `paper`; on other data than ours."""

LISTENED = 12
"""Trials to listen to, of all sources together."""

SHOWN_CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Extra:
    """What the page shows beside the figures of the trials."""

    details: dict[str, Any]
    """Of `measure_details`."""
    sensitivity: list[dict[str, Any]]
    """Rows of `sensitivity`; may be none."""
    songs: dict[int, str]
    """The song of each pair."""
    probed: dict[str, Any]
    """Of `probes.probe`: `beats` and `chords` by source."""
    missing: dict[str, dict[str, str]]
    """What to do for data that those lack, by their name."""


def page(params: Params, paths: Paths, measured: Measured, extra: Extra, *, split: str) -> str:
    """Lay out everything that a reader wants to know about a model as one HTML page.

    Parameters
    ----------
    params, paths : Params, Paths
        What the line ran with, and where its records lie.
    measured : Measured
        All figures of the trials.
    extra : Extra
        What else is known.
    split : str
        Whose pairs were heard.

    Returns
    -------
    str
        A page without any reference to the network; a few megabytes, most of it sound.
    """
    facts = json.loads((paths.train / "model.json").read_text())
    return templates.fill(
        TEMPLATE,
        measured=measured,
        headlines=list(_headlines(measured)),
        paper=PAPER,
        ablations=ablation.PAPER,
        curves=_in_page(plots.accuracy_over_candidates(measured, next(iter(PAPER.values())))),
        details=extra.details,
        confusions=list(_confusions(extra.details)),
        distributions=_in_page(plots.score_distributions(measured.groups, extra.songs)),
        histograms=_in_page(plots.rank_histogram(measured.groups)),
        sensitivities=_in_page(plots.sensitivities(extra.sensitivity, UNITS))
        if extra.sensitivity
        else {},
        probed=extra.probed,
        missing=extra.missing,
        training=_in_page(_training(paths)),
        data=_data(paths),
        model=facts,
        params=params,
        examples=list(_examples(params, paths, measured, split)),
    )


def _headlines(measured: Measured) -> Iterator[dict[str, Any]]:
    """The figure of each source that says most: protocol `paper` at its largest K."""
    for source, protocols in measured.retrieval.items():
        protocol = "paper" if "paper" in protocols else next(iter(protocols))
        candidates, found = list(protocols[protocol].items())[-1]
        yield {
            "source": source,
            "protocol": protocol,
            "candidates": int(candidates),
            "chance": 1 / int(candidates),
            **found,
        }


def _confusions(details: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lay the confusion of instruments of each source out as a square, shares of its rows."""
    for source, protocols in details.items():
        entry = protocols.get("paper") or next(iter(protocols.values()))
        if counted := entry.get("confusion"):
            names = sorted({*counted, *(name for row in counted.values() for name in row)})
            rows = [
                (right, sum(counted[right].values()), [counted[right].get(n, 0) for n in names])
                for right in names
                if right in counted
            ]
            yield {
                "source": source,
                "candidates": entry["candidates"],
                "names": names,
                "rows": [(right, total, [n / total for n in row]) for right, total, row in rows],
            }


def _in_page(plotted: dict[str, str]) -> dict[str, Markup]:
    return {title: Markup(plots.in_page(svg)) for title, svg in plotted.items()}


def _training(paths: Paths) -> dict[str, str]:
    """Plot the course of the training; nothing for a model that was not trained here."""
    if not (paths.train / "history.csv").is_file():
        return {}
    return plots.training(
        _numbers(paths.train / "history.csv"), _numbers(paths.train / "validation.csv")
    )


def _numbers(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _data(paths: Paths) -> list[dict[str, Any]]:
    """Count songs, tracks and pairs of each source and split, with their licence."""
    columns = ["source", "split", "song", "track", "licence"]
    table = pq.read_table(paths.render / "pairs.parquet", columns=columns)
    counted = table.group_by(["source", "split"]).aggregate(
        [
            ("song", "count_distinct"),
            ("track", "count_distinct"),
            ("licence", "distinct"),
            ([], "count_all"),
        ]
    )
    rows = [
        {
            "source": row["source"],
            "split": row["split"],
            "songs": row["song_count_distinct"],
            "tracks": row["track_count_distinct"],
            "pairs": row["count_all"],
            "licence": "; ".join(sorted(row["licence_distinct"])),
        }
        for row in counted.to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["source"], SPLITS.index(row["split"])))


def _examples(
    params: Params, paths: Paths, measured: Measured, split: str
) -> Iterator[dict[str, Any]]:
    """Pick trials of each source along the ranking, with what was asked and answered, as sound."""
    each = LISTENED // len(measured.retrieval)
    # From the best to the worst, as far apart as can be; ties are in the order of the trials.
    shares = [(place + 0.5) / each for place in range(each)]
    for source in measured.retrieval:
        groups = {g.trials[0].protocol: g for g in measured.groups if g.trials[0].source == source}
        group = groups.get("songs") or groups.get("paper") or next(iter(groups.values()))
        trials = group.trials[-1]
        ranks = score_trials(group.scores, trials)
        order = np.argsort(ranks, kind="stable")
        for share in shares:
            trial = int(order[int(share * len(order))])
            yield _example(params, paths, split, group, trials, trial) | {
                "rank": int(ranks[trial]) + 1,
                "share": share,
            }


def _example(
    params: Params, paths: Paths, split: str, group: Group, trials: Trials, trial: int
) -> dict[str, Any]:
    """Describe one trial: its anchor, and the true positive and the model's first ones by score."""
    anchor, choices = trials.anchors[trial], trials.choices[trial]
    scores = group.scores[anchor, choices]
    truth = choices[trials.answers[trial]]
    first = choices[np.argsort(-scores, kind="stable")][:SHOWN_CANDIDATES]
    shown = [int(truth), *(int(choice) for choice in first if choice != truth)]
    pairs = group.pairs[[anchor, *shown]]
    rows = _rows(paths, split, pairs)
    waves = _waves(params, paths, split, pairs)
    candidates = [
        {
            "true": choice == truth,
            "score": float(group.scores[anchor, choice]),
            "place": int(np.sum(scores > group.scores[anchor, choice])) + 1,
            "track": rows[pair]["track"],
            "start_s": rows[pair]["start_samples"] / audio.SAMPLE_RATE_HZ,
            "instruments": ", ".join(rows[pair]["positive_instruments"]),
            "sound": _sound(waves[pair][1]),
        }
        for choice, pair in zip(shown, pairs[1:].tolist(), strict=True)
    ]
    own = int(pairs[0])
    return {
        "source": trials.source,
        "protocol": trials.protocol,
        "of": trials.candidates,
        "track": rows[own]["track"],
        "start_s": rows[own]["start_samples"] / audio.SAMPLE_RATE_HZ,
        "instruments": ", ".join(rows[own]["anchor_instruments"]),
        "sound": _sound(waves[own][0]),
        "candidates": sorted(candidates, key=lambda c: c["place"]),
    }


def _rows(paths: Paths, split: str, pairs: NDArray[np.int64]) -> dict[int, dict[str, Any]]:
    table = pq.read_table(
        paths.render / "pairs.parquet",
        columns=["pair", "track", "start_samples", "anchor_instruments", "positive_instruments"],
        filters=[("split", "=", split), ("pair", "in", pairs.tolist())],
    )
    return {row["pair"]: row for row in table.to_pylist()}


def _waves(
    params: Params, paths: Paths, split: str, pairs: NDArray[np.int64]
) -> dict[int, NDArray[np.float32]]:
    """Read pairs as the model heard them: both sides (2, N) by pair."""
    (batch,) = read_pairs(
        paths.render,
        split,
        clip_s=params.evaluate.clip_s,
        batch_pairs=len(pairs),
        wanted=np.unique(pairs),
    )
    return dict(zip(batch.pair.tolist(), batch.to("cpu").wave.numpy(), strict=True))


def _sound(wave: NDArray[np.float32]) -> str:
    """Put sound into the page itself; every browser plays FLAC."""
    return "data:audio/flac;base64," + base64.b64encode(audio.encode(wave)).decode()
