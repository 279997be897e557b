"""The evaluation of the trained model from start to end: hear, measure, write."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from phalar import calibration, progress
from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import hearing, keys, plots, probes, ranks, report
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.details import measure_details, read_facts
from phalar.evaluate.measure import DIGITS, MODEL, Measured, measure
from phalar.evaluate.mismatched import long_scores, mismatched_scores
from phalar.evaluate.retrieval import read_trials
from phalar.evaluate.sensitivity import COLUMNS, Probe, count_rows, sensitivity
from phalar.model import Phalar, load_model
from phalar.params import Params, Paths
from phalar.train.batches import read_pairs
from phalar.train.shards import PairIndex

logger = logging.getLogger(__name__)

SPLIT = "test"
METRICS, DETAILS, REPORT = "metrics.json", "details.json", "report.html"
CURVE, PLOT, SENSITIVITY = "curve.csv", "curve.svg", "sensitivity.csv"


def evaluate(params: Params, paths: Paths) -> dict[str, Any]:
    """Evaluate what training exported; see `phalar.evaluate.run`."""
    model = load_model(paths.train)
    measured = _measure(model, params, paths)
    known = probes.held_out(params, paths)
    sharps = keys.sharps_of([piece for listed in known.values() for piece in listed])
    facts = read_facts(paths.render, SPLIT, sharps)
    details = measure_details(measured.groups, facts, params.evaluate)
    changed = list(_sensitivity(model, params, paths))
    probed, missing = probes.probe(model, known, params.evaluate, paths.root.parent)
    metrics = {"retrieval": measured.retrieval, "baselines": measured.baselines, **probed}
    paths.evaluate.mkdir(parents=True, exist_ok=True)
    _write(paths.evaluate / DETAILS, json.dumps(details, indent=1) + "\n")
    _write(paths.evaluate / SENSITIVITY, _csv(changed, COLUMNS))
    _write(paths.evaluate / CURVE, _curve(measured))
    _write(paths.evaluate / PLOT, plots.on_white(plots.overview(measured)))
    extra = report.Extra(details, changed, read_songs(paths.render), probed, missing)
    _write(paths.evaluate / REPORT, report.page(params, paths, measured, extra, split=SPLIT))
    ranks.write(paths.evaluate / ranks.RANKS, _ranks(measured, params, paths))
    scores = mismatched_scores(measured, read_songs(paths.render))
    long = [
        long_scores(model, paths, source, split=SPLIT, seed=params.evaluate.seed)
        for source in measured.retrieval
    ]
    calibration.write(calibration.measure(scores, str(model.sha256), long), paths.evaluate)
    # Last: where it is, the rest is.
    _write(paths.evaluate / METRICS, json.dumps(metrics, indent=1) + "\n")
    for line in (*_lines(measured), *probes.lines(missing)):
        logger.info("%s", line)
    return metrics


def answer(model: Phalar, params: Params, paths: Paths) -> pa.Table:
    """Let any model answer the trials, so that it can be compared: its ranks.

    Parameters
    ----------
    model : Phalar
        In evaluation mode.
    params, paths : Params, Paths
        How much of each pair is heard, and where the pairs and trials lie.
    """
    return _ranks(_measure(model, params, paths), params, paths)


def _measure(model: Phalar, params: Params, paths: Paths) -> Measured:
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    trials = read_trials(paths.render / "trials.parquet", SPLIT)
    heard = hearing.hear(
        model,
        paths.render,
        split=SPLIT,
        wanted=np.concatenate([np.append(t.choices, t.anchors) for t in trials]),
        clip_s=params.evaluate.clip_s,
    )
    songs = read_songs(paths.render)
    return measure(heard, trials, songs, params.evaluate, score=partial(hearing.score, model))


def _sensitivity(model: Phalar, params: Params, paths: Paths) -> Iterator[dict[str, Any]]:
    """Change the stems of some audible pairs of each source, evenly taken from all."""
    settings = params.evaluate
    whole_s = PairIndex.read(paths.render, SPLIT).samples / SAMPLE_RATE_HZ
    table = pq.read_table(
        paths.render / "pairs.parquet",
        columns=["pair", "source", "song", "tempo_bpm"],
        filters=[("split", "=", SPLIT), ("draw", "=", "audible")],
    ).to_pylist()
    for source in sorted({row["source"] for row in table}):
        rows = [row for row in table if row["source"] == source]
        kept = np.linspace(0, len(rows), settings.sensitivity_pairs, endpoint=False).astype(int)
        rows = [rows[place] for place in np.unique(kept)]
        pairs = [row["pair"] for row in rows]
        if not pairs:
            return
        (batch,) = read_pairs(
            paths.render,
            SPLIT,
            clip_s=whole_s,
            batch_pairs=len(pairs),
            wanted=np.array(pairs),
        )
        wave = batch.to("cpu").wave.numpy()
        probe = Probe(
            source=source,
            anchors=np.ascontiguousarray(wave[:, 0]),
            positives=np.ascontiguousarray(wave[:, 1]),
            clip_samples=round(settings.clip_s * SAMPLE_RATE_HZ),
            songs=[row["song"] for row in rows],
            tempo_bpm=[row["tempo_bpm"] for row in rows],
            numbers=pairs,
        )
        with progress.track(count_rows(probe), f"sensitivity {source}", unit="changes") as tick:
            for row in sensitivity(
                probe,
                embed=partial(hearing.embed, model),
                score=partial(hearing.score_embedded, model),
                draw=partial(Bootstrap, resamples=settings.bootstrap, seed=settings.seed),
                seed=settings.seed,
            ):
                yield row
                tick()


def _ranks(measured: Measured, params: Params, paths: Paths) -> pa.Table:
    asked = ranks.question(paths.render, SPLIT, params.evaluate.clip_s)
    return ranks.table(measured.ranks, asked)


def read_songs(folder: Path) -> dict[int, str]:
    """Give the song of each pair."""
    table = pq.read_table(
        folder / "pairs.parquet", columns=["pair", "song"], filters=[("split", "=", SPLIT)]
    )
    return dict(zip(table["pair"].to_pylist(), table["song"].to_pylist(), strict=True))


def _curve(measured: Measured) -> str:
    """Lay the curves out side by side, a row a K, so that a plain line plot shows one of them.

    Columns are `<source> <protocol>` for the model, with the baseline's name behind it for others;
    `mean` is the model's over the sources, protocol `paper`.
    """
    rows: dict[int, dict[str, Any]] = {}
    for point in measured.curve:
        scorer = "" if point["scorer"] == MODEL else f" {point['scorer']}"
        name = f"{point['source']} {point['protocol']}{scorer}"
        rows.setdefault(point["candidates"], {})[name] = point["top1"]
    own = [f"{source} paper" for source in measured.retrieval]
    for row in rows.values():
        if all(name in row for name in own):
            row["mean"] = round(sum(row[name] for name in own) / len(own), DIGITS)
    names = dict.fromkeys(name for row in rows.values() for name in row if name != "mean")
    ordered = [{"candidates": k, **rows[k]} for k in sorted(rows)]
    return _csv(ordered, ["candidates", "mean", *names])


def _csv(rows: list[dict[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _lines(measured: Measured) -> list[str]:
    """Say the accuracy at the largest K of each source and protocol."""
    lines = []
    for source, protocols in measured.retrieval.items():
        for protocol, sizes in protocols.items():
            k, found = list(sizes.items())[-1]
            share = " to ".join(f"{100 * found[end]:.1f}" for end in ("low", "high"))
            lines.append(
                f"{source}, {protocol}, K = {k}: {100 * found['top1']:.1f} % (95 %: {share}), "
                f"chance {100 / int(k):.1f} %"
            )
    return lines


def _write(path: Path, text: str) -> None:
    """Write aside, then put into place."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
