"""The contrastive loss: each clip of a batch picks its partner out of all the others.

Shape letters: B pairs of the global batch (row: anchor, column: positive).
"""

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["anchor", "both"]


def hide_same_song(score_BB: Tensor, song_B: Tensor) -> Tensor:
    """Set to minus infinity the scores of other pairs of the same song: they may well fit."""
    same_BB = song_B[:, None] == song_B[None, :]
    return score_BB.masked_fill(same_BB.fill_diagonal_(False), -torch.inf)


def contrastive_loss(
    score_BB: Tensor, song_B: Tensor, *, direction: Direction, target_weight: float
) -> Tensor:
    """Cross-entropy of picking the partner, with label smoothing.

    Parameters
    ----------
    score_BB : float tensor [shape=(B, B)]
        Logits: anchor i against positive j, float32 at least.
    song_B : int64 tensor [shape=(B,)]
        Song of each pair; another pair of the same song is no negative.
    direction : {"anchor", "both"}
        Anchors look for positives (the paper), or the mean of that and its mirror.
    target_weight : float in (0, 1]
        Probability that the true partner should get; the rest is spread evenly over a row's
        negatives. A row without negatives costs nothing.

    Returns
    -------
    float tensor [shape=()]
        Mean over the rows.

    Notes
    -----
    `cross_entropy(label_smoothing=e)` gives the partner 1 - e + e / B, which depends on the batch
    size; here it is `target_weight` for any B, as in arXiv 2605.03929.
    """
    hidden_BB = hide_same_song(score_BB, song_B)
    loss = _rows(hidden_BB, target_weight)
    if direction == "both":
        loss = (loss + _rows(hidden_BB.T, target_weight)) / 2
    return loss


def accuracy(score_BB: Tensor, song_B: Tensor) -> Tensor:
    """Share of the anchors that score their own positive above all negatives of the batch: ()."""
    hidden_BB = hide_same_song(score_BB, song_B)
    index_B = torch.arange(len(hidden_BB), device=hidden_BB.device)
    return (hidden_BB.argmax(dim=1) == index_B).float().mean()


def _rows(score_BB: Tensor, target_weight: float) -> Tensor:
    log_probability_BB = score_BB.log_softmax(dim=1)
    hidden_BB = score_BB == -torch.inf
    # Hidden entries are -inf here, and weight 0 times -inf is not a number.
    log_probability_BB = log_probability_BB.masked_fill(hidden_BB, 0.0)
    target_B = log_probability_BB.diagonal()
    negatives_B = (~hidden_BB).sum(dim=1) - 1
    others_B = (log_probability_BB.sum(dim=1) - target_B) / negatives_B.clamp(min=1)
    return -(target_weight * target_B + (1 - target_weight) * others_B).mean()
