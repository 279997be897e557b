"""The contrastive loss, held against a slow version and against what it is for."""

import math

import pytest
import torch

from phalar.train.loss import accuracy, contrastive_loss


def slow_loss(scores: list[list[float]], songs: list[int], target_weight: float) -> float:
    """One row at a time, with nothing but the definition."""
    rows = []
    for i, row in enumerate(scores):
        others = [j for j in range(len(row)) if j != i and songs[j] != songs[i]]
        if not others:
            rows.append(0.0)
            continue
        log_sum = math.log(sum(math.exp(row[j]) for j in [i, *others]))
        target = target_weight * (row[i] - log_sum)
        rest = sum((1 - target_weight) / len(others) * (row[j] - log_sum) for j in others)
        rows.append(-target - rest)
    return sum(rows) / len(rows)


@pytest.mark.parametrize("songs", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [0, 0, 0, 0, 0]])
@pytest.mark.parametrize("target_weight", [0.9, 1.0])
def test_equals_the_slow_version(songs, target_weight):
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one_way = slow_loss(scores.tolist(), songs, target_weight)
    other_way = slow_loss(scores.T.tolist(), songs, target_weight)
    for direction, expected in (("anchor", one_way), ("both", (one_way + other_way) / 2)):
        found = contrastive_loss(
            scores, torch.tensor(songs), direction=direction, target_weight=target_weight
        )
        assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("pairs", [2, 5, 40])
def test_target_weight_is_what_the_partner_gets_for_any_batch(pairs):
    scores = torch.zeros(pairs, pairs, dtype=torch.float64, requires_grad=True)
    contrastive_loss(scores, torch.arange(pairs), direction="anchor", target_weight=0.9).backward()
    # The gradient of cross-entropy is what is predicted less what is wanted.
    wanted = torch.full((pairs, pairs), 1 / pairs, dtype=torch.float64) - pairs * scores.grad
    torch.testing.assert_close(wanted.diagonal(), torch.full((pairs,), 0.9, dtype=torch.float64))
    torch.testing.assert_close(wanted[0, 1:], torch.full_like(wanted[0, 1:], 0.1 / (pairs - 1)))


def test_same_song_is_no_negative_and_gradients_stay_finite():
    songs = torch.tensor([0, 0, 1, 1, 1])
    scores = torch.randn(5, 5, requires_grad=True)
    contrastive_loss(scores, songs, direction="both", target_weight=0.9).backward()
    same = (songs[:, None] == songs) & ~torch.eye(5, dtype=torch.bool)
    assert scores.grad.isfinite().all()
    assert (scores.grad[same] == 0).all()
    assert (scores.grad[~same] != 0).all()


def test_accuracy_counts_first_places_among_negatives():
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 9.0, 1.0]])
    assert accuracy(scores, torch.tensor([0, 1, 2])).item() == pytest.approx(1 / 3)
    assert accuracy(scores, torch.tensor([0, 0, 1])).item() == pytest.approx(2 / 3)
