"""Zero-shot beat tracking: where does music fit metronomes that start there?

The model was never taught beats. Metronomes of all tempi are embedded once, and the music in
windows; a metronome that starts on a beat fits better than one that starts beside it.
Letters: M metronomes, W windows, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import mir_eval
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import grey_opening

from phalar import progress
from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import hearing
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.measure import DIGITS
from phalar.evaluate.pieces import Piece
from phalar.model import Phalar

Floats = NDArray[np.floating]
Waves = NDArray[np.float32]

TEMPI_BPM = tuple(range(30, 241))
METRONOME_S = 5.0
FIRST_BEAT_S = 0.02
HOP_S = 0.02
WINDOW_SAMPLES = 479 * 160
"""480 frames of the constant-Q transform: 4.8 s."""
KEPT_DEVIATIONS = 3.0
OPENING = (3, 3)
TIGHTNESS = 100.0
"""How much a beat's distance from the expected one costs, in squared log intervals."""
WOODBLOCK, LOUD = 76, 110
"""Key of General MIDI's drum kit, and velocity."""
SLOWEST_BPM, FASTEST_BPM, USUAL_BPM = 40.0, 240.0, 120.0


@dataclass(frozen=True, slots=True)
class Figures:
    """How well beats agree with true ones, 0..1."""

    f1: float
    """Within 70 ms."""
    cmlt: float
    """Share of beats in continuity, at the annotated tempo."""
    amlt: float
    """The same where twice or half the tempo, or the off-beat, is right too."""


def metronome(tempo_bpm: float, stroke: Waves) -> Waves:
    """Strokes at a tempo, the first at `FIRST_BEAT_S`, (N,)."""
    samples = round(METRONOME_S * SAMPLE_RATE_HZ)
    wave = np.zeros(samples + len(stroke), dtype=np.float32)
    for beat_s in np.arange(FIRST_BEAT_S, METRONOME_S, 60 / tempo_bpm):
        start = round(beat_s * SAMPLE_RATE_HZ)
        wave[start : start + len(stroke)] += stroke
    return wave[:samples]


def windows(wave: Waves) -> Waves:
    """Cut music (N,) into windows every `HOP_S`, with silence after its end: a view (W, N)."""
    hop = round(HOP_S * SAMPLE_RATE_HZ)
    padded = np.concatenate([wave, np.zeros(WINDOW_SAMPLES, np.float32)])
    starts = -(-len(wave) // hop)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::hop][:starts]


def onset_curve(scores: Floats) -> Floats:
    """Turn the scores of metronomes and windows (M, W) into the strength of a beat, (W,).

    A sudden rise over time, shared by neighbouring tempi, is a beat: what is less than three
    deviations above the mean is dropped, as is what a 3 x 3 opening removes.

    Notes
    -----
    The score of a model that follows time closely rises for two steps or fewer before a beat, and
    the opening, as published, removes all of it: what rose so far then stands as it is. The paper
    does not say what it does there; of an opening over tempi alone and none, none gave back the
    beats of a metronome, and more of those of the valid split.
    """
    rise = np.zeros_like(scores, dtype=np.float64)
    rise[:, 1:-1] = scores[:, 2:] - scores[:, :-2]
    strong = np.where(rise > rise.mean() + KEPT_DEVIATIONS * rise.std(), rise, 0)
    opened: Floats = grey_opening(strong, size=OPENING)
    curve: Floats = (opened if opened.any() else strong).sum(axis=0)
    return curve


def track_beats(onsets: Floats) -> Floats:
    """Find the beats of an onset curve with a step of `HOP_S`, in seconds.

    The tempo is the strongest lag of the curve's autocorrelation, weighted towards 120 a minute;
    the beats are those that add up most strength at intervals near it.

    Notes
    -----
    D. Ellis, "Beat Tracking by Dynamic Programming", Journal of New Music Research 36 (2007).
    """
    if not onsets.any():
        return np.empty(0)
    period = _period_steps(onsets)
    strength = onsets / onsets.std()
    reach = np.arange(-round(2 * period), -round(period / 2) + 1)
    cost = -TIGHTNESS * np.log(-reach / period) ** 2
    best, back = strength.copy(), np.full(len(strength), -1)
    for step in range(len(strength)):
        before = step + reach
        there = before >= 0
        if there.any():
            reached = best[before[there]] + cost[there]
            found = int(np.argmax(reached))
            if reached[found] > 0:
                best[step] += reached[found]
                back[step] = before[there][found]
    # The last beat is the best of the last interval.
    step = len(best) - 1 - int(np.argmax(best[::-1][: max(round(period), 1)]))
    beats = []
    while step >= 0:
        beats.append(step)
        step = int(back[step])
    return np.array(beats[::-1]) * HOP_S


def _period_steps(onsets: Floats) -> float:
    lags = np.arange(round(60 / FASTEST_BPM / HOP_S), round(60 / SLOWEST_BPM / HOP_S) + 1)
    # Where beats are no whole steps apart, their distances are shared by neighbouring lags.
    smooth = np.convolve(onsets, np.bartlett(7)[1:-1], mode="same")
    centred = smooth - smooth.mean()
    size = 2 * len(centred)
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    correlation = np.fft.irfft(spectrum, size)[lags[lags < len(centred)]]
    lags = lags[: len(correlation)]
    if not len(lags):
        return 60 / USUAL_BPM / HOP_S
    weight = np.exp(-0.5 * np.log2(lags * HOP_S * USUAL_BPM / 60) ** 2)
    return float(lags[np.argmax(correlation * weight)])


def flux(wave: Waves) -> Floats:
    """How much louder each band of the spectrum becomes at each `HOP_S`: the control, (W,)."""
    hop = round(HOP_S * SAMPLE_RATE_HZ)
    padded = np.pad(wave, (hop, 2 * hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
    spectrum = np.log1p(100 * np.abs(np.fft.rfft(frames * np.hanning(2 * hop), axis=1)))
    steps = -(-len(wave) // hop)
    rise = np.maximum(np.diff(spectrum, axis=0, prepend=spectrum[:1]), 0).sum(axis=1)[:steps]
    return np.asarray(rise)


def judge(true_s: Floats, found_s: Floats) -> Figures:
    """Compare beats with the annotation, all of them: nothing is trimmed from the start."""
    if not len(true_s) or not len(found_s):
        return Figures(0.0, 0.0, 0.0)
    true_s, found_s = np.asarray(true_s, np.float64), np.asarray(found_s, np.float64)
    _, cmlt, _, amlt = mir_eval.beat.continuity(true_s, found_s)
    return Figures(float(mir_eval.beat.f_measure(true_s, found_s)), float(cmlt), float(amlt))


def judge_track(
    wave: Waves,
    beats_s: Floats,
    *,
    embed: Callable[[Waves], Floats],
    score: Callable[[Floats, Floats], Floats],
    metronomes: Floats,
) -> dict[str, dict[str, float]]:
    """Track the beats of a piece by the model, by spectral flux, and by a fixed tempo.

    Parameters
    ----------
    wave : float32 array [shape=(N,)]
        The mix at `audio.SAMPLE_RATE_HZ`.
    beats_s : float array
        The true beats.
    embed, score : callable
        Of the model: sound to embeddings, embeddings to a matrix of scores.
    metronomes : float array
        Embeddings of `metronome` at `TEMPI_BPM`.

    Returns
    -------
    dict
        Figures of `model`, `flux`, and `fixed`: a beat each half second, which knows nothing.
    """
    scores = score(metronomes, embed(windows(wave)))
    fixed = np.arange(0, len(wave) / SAMPLE_RATE_HZ, 60 / USUAL_BPM)
    found = {
        "model": track_beats(onset_curve(scores)) + FIRST_BEAT_S,
        "flux": track_beats(flux(wave)),
        "fixed": fixed,
    }
    return {name: asdict(judge(beats_s, times)) for name, times in found.items()}


def stroke() -> Waves:
    """One stroke of a woodblock by the synthesiser of the embedded sources, (N,).

    Raises
    ------
    OSError
        The synthesiser is not installed.
    """
    try:
        from phalar.sources import synth
    except ImportError as error:
        raise OSError(
            f"a metronome needs the synthesiser ({error}); `pip install 'phalar[embedded]'`"
        ) from error
    from phalar.sources.scores import DRUM_KIT, Note, Part

    played = Part(DRUM_KIT, [Note(0.0, 0.1, WOODBLOCK, LOUD)], [])
    wave = synth.sound_part(played, cents=0.0, seconds=0.5)
    return np.asarray(0.5 * wave / np.abs(wave).max(), dtype=np.float32)


def judge_sources(
    asked: Mapping[str, list[Piece]],
    model: Phalar,
    *,
    seconds: float,
    draw: Callable[[list[str]], Bootstrap],
) -> dict[str, dict[str, Any]]:
    """Track the beats of pieces, and take the mean over them with its interval over songs.

    Parameters
    ----------
    asked : mapping of str to list of Piece
        By source; with beats.
    model : Phalar
        In evaluation mode.
    seconds : float
        How much of each piece is heard, from its start.
    draw : callable
        From songs to resamples of them.

    Returns
    -------
    dict
        By source `model`, `flux` and `fixed` (see `judge_track`), each with `f1`, `cmlt`, `amlt`
        and the ends of the interval of F1, `low` and `high`; `pieces` and `songs`.
    """
    if not asked:
        return {}
    embed, score = (
        partial(hearing.embed, model, pad="right"),
        partial(hearing.score_embedded, model),
    )
    struck = stroke()
    metronomes = embed(np.stack([metronome(bpm, struck) for bpm in TEMPI_BPM]))
    judge = partial(judge_track, embed=embed, score=score, metronomes=metronomes)
    found = {}
    with progress.track(sum(map(len, asked.values())), "beats", unit="pieces") as tick:
        for source, pieces in asked.items():
            rows = []
            for piece in pieces:
                wave = piece.load()[: round(seconds * SAMPLE_RATE_HZ)]
                true_s = np.asarray(piece.beats_s, dtype=np.float64)
                rows.append(judge(wave, true_s[true_s < len(wave) / SAMPLE_RATE_HZ]))
                tick()
            found[source] = _means(rows, draw([piece.song for piece in pieces]))
    return found


def _means(rows: list[dict[str, dict[str, float]]], bootstrap: Bootstrap) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in rows[0]:
        own = {key: np.array([row[name][key] for row in rows]) for key in rows[0][name]}
        low, high = bootstrap.mean(own["f1"])
        figures = {key: float(values.mean()) for key, values in own.items()}
        figures |= {"low": low, "high": high}
        result[name] = {key: round(value, DIGITS) for key, value in figures.items()}
    return result | {"pieces": len(rows), "songs": bootstrap.songs}
