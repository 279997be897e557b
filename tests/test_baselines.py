"""Baselines: what chance gives, and scorers whose answers are known by construction."""

import numpy as np
import pytest
import torch

from phalar.evaluate import baselines
from phalar.model.frontend import ConstantQDecibels

RATE_HZ = 16_000


def tone(frequency_hz: float, level_db: float) -> torch.Tensor:
    """A second of a sine whose root-mean-square level is `level_db`."""
    time_s = torch.arange(RATE_HZ) / RATE_HZ
    return 2**0.5 * 10 ** (level_db / 20) * torch.sin(2 * torch.pi * frequency_hz * time_s)


@pytest.mark.parametrize("candidates", [2, 8, 64])
def test_chance_is_what_random_ranks_give(candidates: int) -> None:
    ranks = np.random.default_rng(1).integers(candidates, size=200_000)
    found = baselines.chance(candidates, 10)
    assert found["top1"] == found["low"] == found["high"] == 1 / candidates
    assert found["top1"] == pytest.approx(np.mean(ranks == 0), abs=0.004)
    assert found["mrr"] == pytest.approx(np.mean(1 / (1 + ranks)), abs=0.004)
    assert found["trials"] == 10


def test_level_is_the_root_mean_square_in_db() -> None:
    waves = torch.stack([tone(440, -6), tone(440, -30), torch.zeros(RATE_HZ)])
    np.testing.assert_allclose(baselines.level_db(waves), [[-6], [-30], [-100]], atol=1e-3)


def test_loudness_prefers_the_nearest_level() -> None:
    scores = baselines.score_loudness(np.array([[-20.0]]), np.array([[-30.0], [-18.0], [-20.0]]))
    np.testing.assert_array_equal(scores, [[-10, -2, 0]])


def test_spectrum_prefers_the_same_notes_at_any_level() -> None:
    front_end = ConstantQDecibels()
    waves = torch.stack([tone(220, -10), tone(220, -40), tone(330, -10), tone(3000, -10)])
    shapes = baselines.spectrum(waves, front_end)
    scores = baselines.score_spectrum(shapes, shapes)
    assert scores[0, 1] > 0.95
    assert scores[0, 1] > scores[0, 2] > scores[0, 3]
    np.testing.assert_allclose(np.diagonal(scores), 1, atol=1e-6)
    np.testing.assert_allclose(scores, scores.T, atol=1e-12)


def test_silence_has_no_spectrum_and_fits_nothing() -> None:
    shapes = baselines.spectrum(torch.zeros(1, RATE_HZ), ConstantQDecibels())
    np.testing.assert_allclose(shapes, 0, atol=1e-9)
