"""What a change of the right stem does to the model: shifts, pitch, level, noise, band, length.

Letters: P pairs, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
import torchaudio
from numpy.typing import NDArray

from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.measure import DIGITS
from phalar.evaluate.retrieval import rank_among_all

Waves = NDArray[np.float32]
Floats = NDArray[np.floating]
Places = NDArray[np.int64]

SHIFTS_BEATS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
PITCHES_ST = (-6, -4, -2, -1, 1, 2, 4, 6)
GAINS_DB = (-24, -12, 12)
NOISES_DB = (30, 20, 10, 0)
BANDS_HZ = (4000, 2000, 1000, 500)
LENGTHS_S = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
FFT_SAMPLES, HOP_SAMPLES = 1024, 256
SILENCE = 1e-9
"""Power that is taken for none when noise is set against it."""

NONE = "none"
COLUMNS = ("source", "change", "amount", "top1", "low", "high", "score", "candidates", "pairs")
"""Of each row that `sensitivity` yields."""
UNITS = {
    "time shift": "beats",
    "pitch shift": "semitones",
    "gain": "dB",
    "noise": "dB below the stem",
    "band limit": "Hz",
    "clip length": "s",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """P pairs of one source."""

    source: str
    anchors: Waves
    """(P, N), as long as they were rendered."""
    positives: Waves
    """(P, N)"""
    clip_samples: int
    """Of their middle, which is heard but where another length is tried."""
    songs: list[str]
    tempo_bpm: list[float | None]
    numbers: list[int]
    """Of the pairs: the noise of each is drawn from them."""


def sensitivity(
    probe: Probe,
    *,
    embed: Callable[[Waves], Floats],
    score: Callable[[Floats, Floats], Floats],
    draw: Callable[[list[str]], Bootstrap],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Change the positives, one way at a time, and see whether the anchors still find them.

    Each anchor picks between its own changed positive and the unchanged positives of all other
    pairs. A time shift turns the positive within the clip, so that nothing but the alignment
    changes: its end comes to its beginning. A clip length is that of both sides.

    Parameters
    ----------
    probe : Probe
        The pairs.
    embed : callable
        From sound (P, N) to embeddings.
    score : callable
        From embeddings of anchors and positives to scores (P, P).
    draw : callable
        From songs to resamples of them.
    seed : int
        Decides the noise.

    Yields
    ------
    dict
        `source`, `change`, `amount`, `top1` with `low` and `high`, mean `score` of the true pairs,
        `candidates`, `pairs`. The first row has change `none`.
    """
    anchors, positives = (
        embed(middle(side, probe.clip_samples)) for side in (probe.anchors, probe.positives)
    )
    every = np.arange(len(anchors))

    def row(change: str, amount: float, scores: Floats, kept: Places) -> dict[str, Any]:
        ranks, _ = rank_among_all(scores, probe.songs, same_song=True)
        hits = (ranks[kept] == 0) * 1.0
        low, high = draw([probe.songs[place] for place in kept]).mean(hits)
        true = float(scores[kept, kept].mean())
        figures = {"top1": float(hits.mean()), "low": low, "high": high, "score": true}
        return {
            "source": probe.source,
            "change": change,
            "amount": amount,
            **{name: round(value, DIGITS) for name, value in figures.items()},
            "candidates": len(scores),
            "pairs": len(kept),
        }

    base = score(anchors, positives)
    yield row(NONE, 0.0, base, every)
    for change, amount, changed, kept in changes(probe, seed):
        scores = base.copy()
        scores[kept, kept] = score(anchors[kept], embed(changed)).diagonal()
        yield row(change, amount, scores, kept)
    for samples in lengths(probe):
        sides = (middle(side, samples) for side in (probe.anchors, probe.positives))
        scores = base if samples == probe.clip_samples else score(*map(embed, sides))
        yield row("clip length", samples / SAMPLE_RATE_HZ, scores, every)


def middle(waves: Waves, samples: int) -> Waves:
    """Cut so many samples from the middle of each, (P, samples)."""
    first = (waves.shape[1] - samples) // 2
    return np.ascontiguousarray(waves[:, first : first + samples])


def lengths(probe: Probe) -> list[int]:
    """All lengths in samples that the pairs suffice for, and that of the clip."""
    wanted = (round(length_s * SAMPLE_RATE_HZ) for length_s in LENGTHS_S)
    return sorted({probe.clip_samples, *(n for n in wanted if n <= probe.anchors.shape[1])})


def count_rows(probe: Probe) -> int:
    """How many rows `sensitivity` yields."""
    shifts = len(SHIFTS_BEATS) if any(probe.tempo_bpm) else 0
    others = len(PITCHES_ST) + len(GAINS_DB) + len(NOISES_DB) + len(BANDS_HZ)
    return 1 + shifts + others + len(lengths(probe))


def changes(probe: Probe, seed: int) -> Iterator[tuple[str, float, Waves, Places]]:
    """Yield what is done, how much of it, the changed positives, and of which pairs they are."""
    waves = middle(probe.positives, probe.clip_samples)
    every = np.arange(len(waves))
    timed = np.array([n for n in every if probe.tempo_bpm[n]], dtype=np.int64)
    if len(timed):
        tempo_bpm = np.array([probe.tempo_bpm[n] for n in timed], dtype=np.float64)
        for beats in SHIFTS_BEATS:
            samples = np.round(beats * 60 / tempo_bpm * SAMPLE_RATE_HZ).astype(int)
            turned = [np.roll(waves[n], by) for n, by in zip(timed, samples, strict=True)]
            yield "time shift", beats, np.stack(turned), timed
    for semitones in PITCHES_ST:
        yield "pitch shift", semitones, shift_pitch(waves, semitones), every
    for gain_db in GAINS_DB:
        yield "gain", gain_db, (waves * 10 ** (gain_db / 20)).astype(np.float32), every
    for snr_db in NOISES_DB:
        yield "noise", snr_db, add_noise(waves, snr_db, probe.numbers, seed), every
    for edge_hz in BANDS_HZ:
        yield "band limit", edge_hz, limit_band(waves, edge_hz), every


def shift_pitch(waves: Waves, semitones: float) -> Waves:
    """Shift the pitch and keep the tempo: stretch by a phase vocoder, then play faster, (P, N)."""
    out = np.zeros_like(waves)
    # One at a time: the spectra of all would take far more memory than their sound.
    for clip, wave in zip(out, waves, strict=True):
        played = _play_shifted(wave, 2 ** (semitones / 12))[: len(clip)]
        clip[: len(played)] = played
    return out


def _play_shifted(wave: Waves, ratio: float) -> Waves:
    """Multiply all frequencies of a clip; it may come out some samples longer or shorter."""
    window = torch.hann_window(FFT_SAMPLES)
    spectrum = torch.stft(
        torch.from_numpy(wave), FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True
    )
    advance = torch.linspace(0, torch.pi * HOP_SAMPLES, len(spectrum))[:, None]
    stretched = torchaudio.functional.phase_vocoder(spectrum, 1 / ratio, advance)
    longer = torch.istft(stretched, FFT_SAMPLES, HOP_SAMPLES, window=window).numpy()
    return np.asarray(soxr.resample(longer, SAMPLE_RATE_HZ * ratio, SAMPLE_RATE_HZ))


def add_noise(waves: Waves, snr_db: float, numbers: list[int], seed: int) -> Waves:
    """Add white noise so far below each clip, drawn from (seed, number of the pair), (P, N)."""
    noise = np.stack(
        [np.random.default_rng([seed, n]).standard_normal(waves.shape[1]) for n in numbers]
    )
    power = np.maximum(np.mean(waves.astype(np.float64) ** 2, axis=1, keepdims=True), SILENCE)
    noisy: Waves = (waves + noise * np.sqrt(power) * 10 ** (-snr_db / 20)).astype(np.float32)
    return noisy


def limit_band(waves: Waves, edge_hz: float) -> Waves:
    """Cut off all above a frequency, as lossy codecs do, (P, N)."""
    spectrum = np.fft.rfft(waves, axis=1)
    spectrum[:, np.fft.rfftfreq(waves.shape[1], 1 / SAMPLE_RATE_HZ) > edge_hz] = 0
    return np.fft.irfft(spectrum, waves.shape[1], axis=1).astype(np.float32)
