"""Hear every pair once: the model's embeddings, and what the baselines go by.

Letters: N pairs, B pairs of a batch, R real and imaginary part, D dimensions, F bins.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar import progress
from phalar.evaluate import baselines
from phalar.model import Phalar
from phalar.model.frontend import ConstantQDecibels
from phalar.model.pooling import Pad
from phalar.train.batches import Batch, read_pairs

# A core embeds no faster many at a time, and few keep the threads' shares even to the end.
BATCH_PAIRS = {"cpu": 2, "cuda": 64}
BATCHES_AHEAD = 32

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Heard:
    """What each scorer knows of N pairs: for both sides an array with a row a pair."""

    pairs: Integers
    """(N,), rising."""
    sides: Mapping[str, tuple[Floats, Floats]]
    """By scorer, anchors and positives: `model` (N, R, D), `loudness` (N, 1), `spectrum` (N, F)."""

    def among(self, pairs: Integers) -> Heard:
        """Keep some of the pairs, in rising order."""
        kept = np.sort(pairs)
        rows = np.searchsorted(self.pairs, kept)
        return Heard(kept, {name: (a[rows], b[rows]) for name, (a, b) in self.sides.items()})


def hear(model: Phalar, folder: Path, *, split: str, wanted: Integers, clip_s: float) -> Heard:
    """Read and embed pairs of a split, batch by batch, on all cores and on the device of the model.

    Each core has its own thread, and each thread computes alone: what comes out does not depend on
    how many there are.

    Parameters
    ----------
    model : Phalar
        In evaluation mode, on any device.
    folder : Path
        Of the render stage.
    split : str
        Whose pairs.
    wanted : int64 array
        Pairs that are to be heard; each is once.
    clip_s : float
        How much of each, from its middle.

    Raises
    ------
    ValueError
        The pairs are shorter than `clip_s`, or a shard is damaged.
    """
    device = next(model.parameters()).device
    front_end = ConstantQDecibels().to(device)
    size = BATCH_PAIRS.get(device.type, BATCH_PAIRS["cpu"])
    pairs = np.unique(wanted)

    @torch.inference_mode()
    def one(batch: Batch) -> dict[str, Floats]:
        wave_BN = batch.to(device).wave.flatten(0, 1)
        known = {
            "model": model.encode(model.features(wave_BN)).float().cpu().numpy(),
            "loudness": baselines.level_db(wave_BN),
            "spectrum": baselines.spectrum(wave_BN, front_end),
        }
        return {name: values.reshape(-1, 2, *values.shape[1:]) for name, values in known.items()}

    batches = read_pairs(folder, split, clip_s=clip_s, batch_pairs=size, wanted=pairs)
    # Each answer is copied into its place at once: kept as it came, it would lie between the large
    # arrays of its thread, and none of their memory could be given back.
    joined: dict[str, Floats] = {}
    first = 0
    with progress.track(len(pairs), "evaluate", unit="pairs") as tick:
        for found in _in_threads(one, batches):
            heard = len(found["model"])
            for name, values in found.items():
                if name not in joined:
                    joined[name] = np.empty((len(pairs), *values.shape[1:]), values.dtype)
                joined[name][first : first + heard] = values
            first += heard
            tick(heard)
    return Heard(pairs, {name: (both[:, 0], both[:, 1]) for name, both in joined.items()})


def embed(model: Phalar, waves: NDArray[np.float32], *, pad: Pad = "both") -> Floats:
    """Embed sound (P, N) as `hear` does, on all cores or on the GPU: (P, R, D)."""
    device = next(model.parameters()).device
    size = 2 * BATCH_PAIRS.get(device.type, BATCH_PAIRS["cpu"])

    @torch.inference_mode()
    def one(wave_BN: Tensor) -> Floats:
        found = model.encode(model.features(wave_BN.to(device)), pad=pad)
        return np.asarray(found.float().cpu().numpy())

    # Windows of one piece overlap: what is copied is a batch, never all of them.
    parts = (
        torch.from_numpy(np.array(waves[first : first + size], order="C"))
        for first in range(0, len(waves), size)
    )
    return np.concatenate(list(_in_threads(one, parts)))


def score_embedded(model: Phalar, anchors: Floats, positives: Floats) -> Floats:
    """Score every anchor with every positive, by their embeddings: (A, P)."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        z: list[Tensor] = [torch.from_numpy(side).to(device) for side in (anchors, positives)]
        return np.asarray(model.score_matrix(*z, commutative=True).cpu().numpy())


def score(model: Phalar, heard: Heard, name: str) -> Floats:
    """Score every anchor with every positive as the model or a baseline does: (N, N)."""
    anchors, positives = heard.sides[name]
    if name != "model":
        return baselines.SCORERS[name](anchors, positives)
    return score_embedded(model, anchors, positives)


def _in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Map in order over a thread a core, with torch's own threads off and few items read ahead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    ahead: deque[Future[Out]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > BATCHES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # After an error or Ctrl-C what still waits is dropped.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
