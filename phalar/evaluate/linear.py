"""A linear probe: what one layer reads from embeddings of which it has seen others.

Letters: W windows, E numbers of an embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

FOLDS = 5
LEARNING_RATE = 1e-3
BATCH_WINDOWS = 64


def deal(groups: Sequence[str], *, seed: int) -> Integers:
    """Deal whole groups out to `FOLDS` folds, fewer where there are fewer groups: (W,).

    Raises
    ------
    ValueError
        There is one group only, so that nothing can be held out.
    """
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} group(s) to hold out one of, need 2; take more music")
    fold_of = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    return np.asarray(fold_of[place], dtype=np.int64)


def majority(classes: Integers, fold: Integers, known: Mask) -> Integers:
    """Answer with the most frequent class of the other folds, (W,)."""
    answers = np.empty_like(classes)
    for held_out in np.unique(fold):
        seen = classes[known & (fold != held_out)]
        answers[fold == held_out] = np.bincount(seen).argmax()
    return answers


def shuffle(classes: Integers, known: Mask, *, seed: int) -> Integers:
    """Give the known classes to other windows: what is left to read is how frequent each is."""
    shuffled = classes.copy()
    shuffled[known] = np.random.default_rng(seed).permutation(classes[known])
    return shuffled


def answer(
    features: Floats, classes: Integers, fold: Integers, known: Mask, *, epochs: int, seed: int
) -> Integers:
    """Fit the probe to all folds but one, and answer that one, for each in turn.

    Parameters
    ----------
    features : float array [shape=(W, E)]
        Scaled by `scale`.
    classes, fold : int64 arrays [shape=(W,)]
    known : bool array [shape=(W,)]
        Windows with a class; the others are answered, and never learned.
    epochs : int
        How often all windows are seen.
    seed : int
        Decides their order.

    Returns
    -------
    int64 array [shape=(W,)]
        The class of each window as the probe says that has not seen its fold.
    """
    x_WE = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    y_W = torch.from_numpy(classes)
    answers = np.empty_like(classes)
    # One thread: the sums of several come out in another order, and so do the figures.
    with one_thread():
        for held_out in np.unique(fold):
            seen, own = known & (fold != held_out), fold == held_out
            layer = fit(x_WE[seen], y_W[seen], epochs=epochs, seed=seed)
            with torch.inference_mode():
                answers[own] = layer(x_WE[own]).argmax(dim=1).numpy()
    return answers


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(x_WE: torch.Tensor, y_W: torch.Tensor, *, epochs: int, seed: int) -> nn.Linear:
    """Fit one layer by cross-entropy with RAdam.

    The real part of a complex layer, Re((A + iB)(x + iy)) = Ax - By, is a real layer on real and
    imaginary parts side by side. It has a bias, so that what cannot be told becomes the most
    frequent class, and starts at zero: the loss is convex, and no class comes first.
    """
    layer = nn.Linear(x_WE.shape[1], int(y_W.max()) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.RAdam(layer.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x_WE), generator=order), BATCH_WINDOWS):
            optimiser.zero_grad()
            loss: torch.Tensor = nn.functional.cross_entropy(layer(x_WE[rows]), y_W[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return layer


def scale(features: Floats) -> Floats:
    """Flatten embeddings (W, ...) to (W, E), each with a root mean square of 1; silence stays 0."""
    flat = features.reshape(len(features), -1)
    size = np.sqrt(np.mean(flat.astype(np.float64) ** 2, axis=1, keepdims=True))
    return np.asarray(flat / np.maximum(size, np.finfo(np.float32).tiny), dtype=np.float32)
