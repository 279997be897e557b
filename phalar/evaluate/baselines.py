"""What must stand beside a number: chance, and scorers that only hear loudness or timbre.

Letters: B clips, N samples, F bins, A anchors, P positives, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar.model.frontend import ConstantQDecibels

Floats = NDArray[np.floating]

LEAST_POWER = 1e-10
"""Digital silence counts as -100 dB."""


def chance(candidates: int, trials: int) -> dict[str, float | int]:
    """Give what guessing gets, exactly, in the form of `measure.summary`."""
    top1 = 1 / candidates
    mrr = sum(1 / place for place in range(1, candidates + 1)) / candidates
    return {"top1": top1, "low": top1, "high": top1, "mrr": mrr, "trials": trials}


def level_db(wave_BN: Tensor) -> Floats:
    """Root-mean-square level of each clip in dB of full scale, (B, 1)."""
    power = wave_BN.double().square().mean(dim=1, keepdim=True)
    return np.asarray(10 * power.clamp_min(LEAST_POWER).log10().cpu().numpy())


def spectrum(wave_BN: Tensor, front_end: ConstantQDecibels) -> Floats:
    """Mean constant-Q spectrum of each clip in dB, centred and of unit length, (B, F).

    Centred, because every spectrum in dB resembles every other; what is left tells them apart.
    """
    mean = front_end(wave_BN).mean(dim=2).double()
    shape = torch.nn.functional.normalize(mean - mean.mean(dim=1, keepdim=True), dim=1)
    return np.asarray(shape.cpu().numpy())


def score_loudness(anchors: Floats, positives: Floats) -> Floats:
    """Score every anchor with every positive by how little their levels differ, (A, P)."""
    return -np.abs(anchors - positives.T)


def score_spectrum(anchors: Floats, positives: Floats) -> Floats:
    """Score every anchor with every positive by the cosine of their spectra, (A, P)."""
    cosines: Floats = anchors @ positives.T
    return cosines


SCORERS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "loudness": score_loudness,
    "spectrum": score_spectrum,
}
"""Baselines by name, each a score of what its description says of two clips."""
