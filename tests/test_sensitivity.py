"""Changes of the right stem: each does what it says, and a model that hears it loses by it."""

from functools import partial

import numpy as np
import pytest

from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import sensitivity as s
from phalar.evaluate.bootstrap import Bootstrap

SECONDS = 3


def tone(frequency_hz: float) -> np.ndarray:
    time_s = np.arange(SECONDS * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def pitch_hz(wave: np.ndarray) -> float:
    """The strongest frequency of the middle second."""
    middle = wave[SAMPLE_RATE_HZ : 2 * SAMPLE_RATE_HZ] * np.hanning(SAMPLE_RATE_HZ)
    return float(np.argmax(np.abs(np.fft.rfft(middle))))


@pytest.mark.parametrize("semitones", [-6, -1, 4])
def test_pitch_moves_by_semitones_and_tempo_stays(semitones) -> None:
    wave = tone(440)
    wave[: SAMPLE_RATE_HZ // 2] = 0
    (shifted,) = s.shift_pitch(wave[None], semitones)
    assert pitch_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), abs=2)
    assert shifted.shape == wave.shape
    level = np.abs(shifted)
    assert level[: SAMPLE_RATE_HZ // 3].max() < 0.02
    assert level[2 * SAMPLE_RATE_HZ // 3 :].max() > 0.2


def test_noise_is_as_far_below_as_asked_and_belongs_to_the_pair() -> None:
    waves = np.stack([tone(440), 0.1 * tone(440)])
    noisy = s.add_noise(waves, 20, [7, 8], seed=1)
    power = np.mean((noisy - waves) ** 2, axis=1) / np.mean(waves**2, axis=1)
    assert 10 * np.log10(power) == pytest.approx([-20, -20], abs=0.1)
    np.testing.assert_array_equal(s.add_noise(waves[1:], 20, [8], seed=1)[0], noisy[1])


def test_band_limit_takes_the_highs_and_nothing_else() -> None:
    both = tone(400) + tone(3000)
    np.testing.assert_allclose(s.limit_band(both[None], 1000)[0], tone(400), atol=1e-4)


def probe(pairs: int = 6) -> s.Probe:
    """Tones of different pitch that beat, anchor and positive the same."""
    time_s = np.arange(SECONDS * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    waves = np.stack(
        [tone(200 * 1.2**n) * (np.sin(np.pi * (1 + n) * time_s) > 0) for n in range(pairs)]
    ).astype(np.float32)
    tempo: list[float | None] = [60.0] * (pairs - 1)
    # What is heard is the middle of longer pairs.
    edge = SAMPLE_RATE_HZ // 2
    whole = np.pad(waves, ((0, 0), (edge, edge)), mode="reflect")
    return s.Probe(
        "made",
        whole,
        whole,
        clip_samples=SECONDS * SAMPLE_RATE_HZ,
        songs=[f"song{n}" for n in range(pairs)],
        tempo_bpm=[*tempo, None],
        numbers=[*range(pairs)],
    )


def run(embed) -> list[dict]:
    draw = partial(Bootstrap, resamples=100, seed=1)
    found = s.sensitivity(probe(), embed=embed, score=lambda a, b: a @ b.T, draw=draw, seed=1)
    return list(found)


def test_a_model_of_the_spectrum_hears_pitch_and_no_shift() -> None:
    def spectrum(waves: np.ndarray) -> np.ndarray:
        found = np.abs(np.fft.rfft(waves[:, : 2 * SAMPLE_RATE_HZ], axis=1))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    rows = run(spectrum)
    top1 = {(row["change"], row["amount"]): row["top1"] for row in rows}
    assert top1[s.NONE, 0.0] == 1
    assert top1["time shift", 0.5] == 1
    assert top1["pitch shift", 6] < 0.5
    assert top1["gain", -12] == 1
    assert len(rows) == s.count_rows(probe())
    assert all(tuple(row) == s.COLUMNS for row in rows)
    # Shorter and longer than what is heard, as far as the pairs go; what is heard is among them.
    heard = [row for row in rows if row["change"] == "clip length"]
    assert [row["amount"] for row in heard] == [2, SECONDS, 4]
    assert heard[1]["score"] == rows[0]["score"]
    # Only where the tempo is known can a shift be told in beats.
    assert {row["pairs"] for row in rows if row["change"] == "time shift"} == {5}


def test_a_model_of_the_moment_hears_shifts() -> None:
    def envelope(waves: np.ndarray) -> np.ndarray:
        short = np.abs(waves).reshape(len(waves), -1, 800).mean(axis=2)[:, :40]
        short = short - short.mean(axis=1, keepdims=True)
        return short / (np.linalg.norm(short, axis=1, keepdims=True) + 1e-9)

    score = {(row["change"], row["amount"]): row["score"] for row in run(envelope)}
    assert score[s.NONE, 0.0] == pytest.approx(1)
    assert score["time shift", 0.5] < 0.7
    assert score["gain", -24] == pytest.approx(1, abs=1e-3)
    assert score["noise", 0] < score["noise", 20] < 1
