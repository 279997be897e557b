"""Linear chord probe: does an embedding say which of 25 chords sounds in the middle of its window?

Beside it in the same probe: chroma of the constant-Q, labels that were shuffled, and the majority.
Letters: W windows, N samples, F bins, T frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mir_eval
import numpy as np
import torch
from numpy.typing import NDArray

from phalar import progress
from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import hearing, linear
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.measure import DIGITS
from phalar.evaluate.pieces import Chord, Piece
from phalar.model import Phalar
from phalar.model.cqt import BINS_PER_OCTAVE, HOP_SAMPLES, ConstantQ
from phalar.params import EvaluateChords

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
Waves = NDArray[np.float32]

ROOTS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
CLASSES = (*(f"{root}:maj" for root in ROOTS), *(f"{root}:min" for root in ROOTS), "N")
"""12 major, 12 minor, none."""
NONE = CLASSES.index("N")
UNMAPPED = -1
NOTHING_SAID = "X"
THROUGH_FIFTH = 8
"""A chord is major or minor by its tones up to the fifth; a seventh or ninth above is no matter."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The windows of a piece."""

    piece: Piece
    features: dict[str, Floats]
    """By name (W, E): `model` its embeddings, `chroma` the folded constant-Q, both scaled."""
    labels: list[str | None]
    """Of the chord in the middle of each window."""
    classes: Integers
    """(W,): numbers in `CLASSES`, or `UNMAPPED`."""


@lru_cache(maxsize=4096)
def chord_class(label: str) -> int:
    """Number of a label in `CLASSES`, or `UNMAPPED`: the rule of mir_eval's `majmin`.

    What has the third and the fifth of a major or minor triad and nothing else up to there is that
    triad, so C:7, C:maj6 and C:min9/5 are C:maj, C:maj and C:min. Diminished, augmented and
    suspended chords, and those without third or fifth, are none of the 25, and no "N" either.

    Raises
    ------
    ValueError
        It is no chord label.
    """
    try:
        root, tones, _ = mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException as error:
        raise ValueError(f"{label!r}: not a chord label ({error})") from error
    if root < 0:
        return UNMAPPED if (tones < 0).any() else NONE
    for first, quality in ((0, "maj"), (len(ROOTS), "min")):
        wanted = mir_eval.chord.QUALITIES[quality][:THROUGH_FIFTH]
        if tones[:THROUGH_FIFTH].tolist() == list(wanted):
            return first + int(root)
    return UNMAPPED


def middles(seconds: float, hop_s: float) -> Floats:
    """Middle of each window, in seconds: half a hop from the start, then every hop."""
    return (np.arange(int(seconds / hop_s + 1e-6)) + 0.5) * hop_s


def windows(wave: Waves, settings: EvaluateChords) -> Waves:
    """Cut music (N,) into windows around `middles`, silence beyond its ends: a view (W, N)."""
    hop, size = (round(s * SAMPLE_RATE_HZ) for s in (settings.hop_s, settings.window_s))
    count = len(middles(len(wave) / SAMPLE_RATE_HZ, settings.hop_s))
    padded = np.pad(wave, (size // 2, size))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[hop // 2 :: hop][:count]


def chroma(wave: Waves, settings: EvaluateChords) -> Floats:
    """Fold the constant-Q of music (N,) into 12 pitch classes from C, a mean a hop: (W, 12)."""
    with torch.inference_mode(), linear.one_thread():
        magnitude_FT = ConstantQ()(torch.from_numpy(wave)[None])[0].double().numpy()
    folded = magnitude_FT.reshape(-1, BINS_PER_OCTAVE, magnitude_FT.shape[1]).sum(axis=0)
    frames = settings.hop_s * SAMPLE_RATE_HZ / HOP_SAMPLES
    count = len(middles(len(wave) / SAMPLE_RATE_HZ, settings.hop_s))
    edges = np.round(np.arange(count + 1) * frames).astype(int)
    so_far = np.pad(np.cumsum(folded, axis=1), ((0, 0), (1, 0)))
    return np.asarray((np.diff(so_far[:, edges]) / np.diff(edges)).T)


def labels_at(chords: Sequence[Chord], at_s: Floats) -> list[str | None]:
    """Label of the chord that sounds at each time; None where the annotation says nothing."""
    starts, ends = (np.array([chord[end] for chord in chords]) for end in (0, 1))
    place = np.searchsorted(starts, at_s, side="right") - 1
    return [
        chords[n][2] if n >= 0 and second < ends[n] else None
        for n, second in zip(place.tolist(), at_s.tolist(), strict=True)
    ]


def judge_pieces(
    pieces: list[Piece],
    model: Phalar,
    *,
    settings: EvaluateChords,
    draw: Callable[[list[str]], Bootstrap],
    seed: int,
) -> dict[str, Any]:
    """Probe the recordings of one source, held out one by one and piece by piece.

    Parameters
    ----------
    pieces : list of Piece
        With chords.
    model : Phalar
        In evaluation mode.
    settings : EvaluateChords
        How much is heard, how long windows are, how far apart, and how often the probe sees them.
    draw : callable
        From the names of what is held out together to resamples of them.
    seed : int
        Decides the folds, the order of the windows, and how labels are shuffled.

    Returns
    -------
    dict
        `recording` and `piece`, each with `model`, `chroma`, `shuffled` and `majority`: `accuracy`
        over windows with the ends of its interval, `low` and `high`, and the weighted recall
        `majmin` and `root` of mir_eval; `recordings`, `pieces`, `windows`; and `left_out`, windows
        whose chord is none of `CLASSES`, by quality.

    Raises
    ------
    ValueError
        There are fewer than two pieces, or a label is none.
    """
    heard = []
    with progress.track(len(pieces), "chords", unit="recordings") as tick:
        for piece in pieces:
            heard.append(hear(piece, model, settings))
            tick()
    held_out = {"recording": [p.name for p in pieces], "piece": [p.song for p in pieces]}
    found: dict[str, Any] = {
        way: _held_out(heard, groups, settings, draw, seed) for way, groups in held_out.items()
    }
    left_out = Counter(
        _quality(label)
        for one in heard
        for label, number in zip(one.labels, one.classes.tolist(), strict=True)
        if number == UNMAPPED
    )
    return found | {
        "recordings": len(pieces),
        "pieces": len(set(held_out["piece"])),
        "windows": sum(len(one.classes) for one in heard),
        "left_out": dict(sorted(left_out.items())),
    }


def hear(piece: Piece, model: Phalar, settings: EvaluateChords) -> Heard:
    """Embed the windows of a piece as far as its chords are known, and say what sounds in them."""
    end_s = min(settings.seconds, max((chord[1] for chord in piece.chords), default=0.0))
    wave = piece.load()[: round(end_s * SAMPLE_RATE_HZ)]
    at_s = middles(len(wave) / SAMPLE_RATE_HZ, settings.hop_s)
    labels = labels_at(piece.chords, at_s)
    try:
        numbers = [UNMAPPED if label is None else chord_class(label) for label in labels]
    except ValueError as error:
        raise ValueError(f"{piece.source}/{piece.name}: {error}") from error
    features = {
        "model": linear.scale(hearing.embed(model, windows(wave, settings))),
        "chroma": linear.scale(chroma(wave, settings)),
    }
    return Heard(piece, features, labels, np.array(numbers, dtype=np.int64))


def _quality(label: str | None) -> str:
    return "not annotated" if label is None else mir_eval.chord.split(label)[1] or "other"


def _held_out(
    heard: list[Heard],
    groups: list[str],
    settings: EvaluateChords,
    draw: Callable[[list[str]], Bootstrap],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Answer every window by a probe that has not seen its group, and count."""
    sizes = [len(one.classes) for one in heard]
    group = np.repeat(groups, sizes)
    fold = linear.deal(group.tolist(), seed=seed)
    classes = np.concatenate([one.classes for one in heard])
    known = classes != UNMAPPED
    bootstrap = draw(group[known].tolist())

    def read(name: str, labels: Integers) -> Integers:
        features = np.concatenate([one.features[name] for one in heard])
        return linear.answer(features, labels, fold, known, epochs=settings.epochs, seed=seed)

    answers = {
        "model": read("model", classes),
        "chroma": read("chroma", classes),
        "shuffled": read("model", linear.shuffle(classes, known, seed=seed)),
        "majority": linear.majority(classes, fold, known),
    }
    found = {}
    for name, answer in answers.items():
        hits = (answer == classes)[known] * 1.0
        low, high = bootstrap.mean(hits)
        figures = {"accuracy": float(hits.mean()), "low": low, "high": high}
        each = np.split(answer, np.cumsum(sizes)[:-1])
        figures |= recall([one.piece for one in heard], each, settings.hop_s)
        found[name] = {key: round(value, DIGITS) for key, value in figures.items()}
    return found


def recall(pieces: list[Piece], answers: list[Integers], hop_s: float) -> dict[str, float]:
    """Weighted chord symbol recall of mir_eval over all pieces: `majmin`, and `root` alone.

    An answer holds for the hop around the middle of its window; chords count by their time.
    """
    known, given, weights = [], [], []
    for piece, classes in zip(pieces, answers, strict=True):
        edges_s = np.arange(len(classes) + 1) * hop_s
        spans = np.stack([edges_s[:-1], edges_s[1:]], axis=1)
        true_spans, true = _without_gaps(piece.chords, float(edges_s[-1]))
        merged, one, other = mir_eval.util.merge_labeled_intervals(
            true_spans, true, spans, [CLASSES[number] for number in classes]
        )
        known += one
        given += other
        weights.append(mir_eval.util.intervals_to_durations(merged))
    time_s = np.concatenate(weights)
    return {
        name: float(mir_eval.chord.weighted_accuracy(compare(known, given), time_s))
        for name, compare in (("majmin", mir_eval.chord.majmin), ("root", mir_eval.chord.root))
    }


def _without_gaps(chords: Sequence[Chord], end_s: float) -> tuple[Floats, list[str]]:
    """Spans (S, 2) and labels from 0 to the end; where nothing is said, "X", which never counts."""
    spans: list[tuple[float, float]] = []
    labels: list[str] = []
    at_s = 0.0
    for start_s, stop_s, label in [*chords, (end_s, end_s, NOTHING_SAID)]:
        for upto_s, name in ((start_s, NOTHING_SAID), (stop_s, label)):
            if min(upto_s, end_s) > at_s:
                spans.append((at_s, min(upto_s, end_s)))
                labels.append(name)
                at_s = spans[-1][1]
    return np.array(spans), labels
