"""Embeddings all along a sound: the backbone hears it once for every start a step apart.

The backbone gives a step each 320 ms, and what it makes of a sound that starts so much later is
nearly what it made of this one, a step later. What starts in between sounds differently to it: of a
shift by a sixth of a step nothing is left of the likeness. So a sound is heard from a few starts
within a step, and from each of them whole steps cost the pooling alone.

Letters: B batch, S starts, N samples, T steps of a window, W windows of the mix.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar.audio import SAMPLE_RATE_HZ
from phalar.model.complex_layers import to_complex
from phalar.model.cqt import HOP_SAMPLES
from phalar.model.encoder import DEPTH, Encoder
from phalar.search.moment import Mix, as_queries, query_vectors, windows_of
from phalar.search.windows import Grid

if TYPE_CHECKING:
    from phalar.model import Phalar

STEP_FRAMES = 2**DEPTH
STEP_SAMPLES = STEP_FRAMES * HOP_SAMPLES
"""Of the backbone: 320 ms."""

PLACES = 8
"""Within a step, 40 ms apart: half of that off the best start a score has lost about a fifth."""

CLIPS = 4
"""Sounds that are embedded together."""

AT_ONCE = 16
"""Sounds that are cut out at a time."""


def embed_along(model: Phalar, sound_BN: Tensor, window_samples: int) -> Tensor:
    """Embed each window of sounds that starts a whole number of steps in.

    The backbone normalises over all that it hears, and reaches beyond a window's ends, so these are
    not quite the embeddings of the windows alone: of the trained default, windows of 5 s in a sound
    of 7.5 s have a cosine of 0.96 with those, and score 3 % less. One window alone is exact.

    Parameters
    ----------
    model : Phalar
        In evaluation mode, as `phalar.load_model` gives it.
    sound_BN : float tensor [shape=(B, N)]
        Mono, at the model's rate, no shorter than a window.
    window_samples : int
        Length of a window.

    Returns
    -------
    complex64 tensor [shape=(B, S, 512)]
        S is 1 and one more for every `STEP_SAMPLES` that a sound is longer than a window. A
        backbone without such steps, that of COCOLA, hears every window.

    Raises
    ------
    ValueError
        The sounds are shorter than a window, or the model is in training.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if sound_BN.shape[1] < window_samples:
        raise ValueError(
            f"sounds of {sound_BN.shape[1]} samples: must be as long as a window, {window_samples}"
        )
    starts = (sound_BN.shape[1] - window_samples) // STEP_SAMPLES + 1
    sound_BN = sound_BN[:, : window_samples + (starts - 1) * STEP_SAMPLES]
    if not isinstance(model.encoder, Encoder):
        window_BSN = sound_BN.unfold(1, window_samples, STEP_SAMPLES)
        z_BD = model.embed(window_BSN.flatten(0, 1), SAMPLE_RATE_HZ)
        return z_BD.reshape(len(sound_BN), starts, -1)
    return torch.cat(
        [_embed(model, part_BN, window_samples) for part_BN in torch.split(sound_BN, CLIPS)]
    )


@torch.inference_mode()
def _embed(model: Phalar, sound_BN: Tensor, window_samples: int) -> Tensor:
    feature_BFT = model.features(sound_BN.to(next(model.parameters()).device))
    steps = -(-(window_samples // HOP_SAMPLES + 1) // STEP_FRAMES)
    window_BSCFT = model.encoder(feature_BFT.unsqueeze(1)).unfold(-1, steps, 1).movedim(3, 1)
    z_BRD = model.head(model.pooling(window_BSCFT.flatten(0, 1)))
    return to_complex(z_BRD).reshape(*window_BSCFT.shape[:2], -1)


def moved_queries(
    model: Phalar, mix: Mix, grid: Grid, steps: int
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Embed the moment of a mix moved to places all around it.

    Parameters
    ----------
    model : Phalar
        In evaluation mode.
    mix : Mix
        The moment, and what is around it.
    grid : Grid
        Of the index.
    steps : int
        How many steps of the backbone it is moved in all, as far as there is sound; 0: not at all,
        and exactly.

    Returns
    -------
    list of int
        By how many samples it is moved: every `STEP_SAMPLES / PLACES`, 40 ms.
    list of float array [shape=(W, 1024)]
        What `Searcher.search` takes, for each.
    """
    if steps == 0:
        return [0], [query_vectors(model, windows_of(mix.sound, grid))]
    fine = STEP_SAMPLES // PLACES
    low, high = mix.reach(steps * STEP_SAMPLES - fine)
    firsts = range(-(-low // fine) * fine, high + 1, fine)[:PLACES]
    hops = range(0, mix.samples - grid.window_samples + 1, grid.hop_samples)
    queries: dict[int, NDArray[np.float32]] = {}
    # Where the sound ends between two places, from the later ones there is a step less.
    for more, group in groupby(firsts, lambda first: (high - first) // STEP_SAMPLES):
        samples, alike = grid.window_samples + more * STEP_SAMPLES, list(group)
        few = max(1, AT_ONCE // len(hops))
        for heard in (alike[place : place + few] for place in range(0, len(alike), few)):
            places = [mix.before + first + hop for first in heard for hop in hops]
            sounds = np.stack([mix.around[place : place + samples] for place in places])
            z_BSD = embed_along(model, torch.from_numpy(sounds), grid.window_samples)
            rows = as_queries(model, z_BSD.flatten(0, 1))
            rows = rows.reshape(len(heard), len(hops), more + 1, -1)
            for place, first in enumerate(heard):
                for step in range(more + 1):
                    queries[first + step * STEP_SAMPLES] = rows[place, :, step]
    shifts = sorted(queries)
    return shifts, [queries[shift] for shift in shifts]
