"""Tempo and key from sound: of made music, where they are known; nothing where there are none."""

import numpy as np
import pytest

from phalar.search import estimate, known

RATE_HZ = 16_000
SCALES = {"": (0, 4, 7, 5, 9, 0, 7, 11, 2), "m": (0, 3, 7, 5, 8, 0, 7, 10, 2)}


def played(tempo_bpm: float, tonic: int, mode: str, *, seconds: float = 20) -> np.ndarray:
    """Notes of a key on every half beat, those on the beat louder."""
    sound = np.zeros(round(seconds * RATE_HZ))
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    for number, at in enumerate(np.arange(0, seconds - 0.6, 30 / tempo_bpm)):
        step = SCALES[mode][number // 2 % len(SCALES[mode])]
        hz = 261.63 * 2 ** ((tonic + step) / 12)
        tone = (np.sin(2 * np.pi * hz * time_s) + 0.4 * np.sin(4 * np.pi * hz * time_s)) * np.exp(
            -6 * time_s
        )
        start = round(at * RATE_HZ)
        sound[start : start + len(tone)] += (0.1 if number % 2 else 0.3) * tone
    return sound.astype(np.float32)


@pytest.mark.parametrize(("tempo_bpm", "tonic", "mode"), [(92, 9, "m"), (128, 2, ""), (75, 6, "m")])
def test_tempo_and_key_of_played_notes(tempo_bpm, tonic, mode) -> None:
    found = estimate.estimate(played(tempo_bpm, tonic, mode))
    assert found is not None
    assert found.tempo_bpm == pytest.approx(tempo_bpm, rel=0.02)
    assert found.key == estimate.NAMES[tonic] + mode
    assert found.tempo_clearness > estimate.SURE_TEMPO


def test_noise_and_silence_and_hits_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    assert known.heard(rng.normal(0, 0.1, 10 * RATE_HZ).astype(np.float32)) == {}
    assert known.heard(np.zeros(10 * RATE_HZ, np.float32)) == {}
    assert known.heard(rng.normal(0, 0.1, RATE_HZ).astype(np.float32)) == {}
    time_s = np.arange(10 * RATE_HZ) / RATE_HZ
    pad = 0.1 * np.sin(2 * np.pi * 220 * time_s) * np.minimum(1, time_s)
    assert "tempo" not in known.heard(pad.astype(np.float32))


def test_a_key_is_the_one_whose_notes_are_heard() -> None:
    for tonic in range(12):
        for mode, notes in (("", (0, 2, 4, 5, 7, 9, 11)), ("m", (0, 2, 3, 5, 7, 8, 10))):
            classes = np.zeros(12)
            classes[[(tonic + note) % 12 for note in notes]] = 1
            # The scale alone is that of the relative key too; the tonic's chord decides.
            classes[[(tonic + note) % 12 for note in (0, notes[2], 7)]] += 1
            assert estimate.key_of(classes)[0] == estimate.NAMES[tonic] + mode
