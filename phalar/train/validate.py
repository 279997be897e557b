"""Accuracy of a model in training on frozen trials of the valid split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from phalar import params
from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate.retrieval import Trials, read_trials, score_trials
from phalar.model import Phalar
from phalar.train import distributed
from phalar.train.distributed import World
from phalar.train.shards import PairIndex, read_crops

PROTOCOL = "paper"
SPLIT = "valid"
PAIRS_A_BATCH = 32


@dataclass(frozen=True, slots=True)
class Validation:
    """The trials that are asked, and the pairs that they need."""

    index: PairIndex
    samples: int
    """How much of each pair the model hears, from its middle."""
    trials: list[Trials]
    """One of each source; they number the pairs by their place in `pairs`."""
    pairs: NDArray[np.int64]

    @staticmethod
    def read(folder: Path, config: params.Validate) -> Validation:
        """Choose the first trials of each source that `config.pairs` suffice for.

        Raises
        ------
        ValueError
            There are no trials of so many candidates, or too few pairs are allowed for one.
        """
        path = folder / "trials.parquet"
        frozen = [trials for trials in read_trials(path, SPLIT) if trials.protocol == PROTOCOL]
        chosen = [trials for trials in frozen if trials.candidates == config.candidates]
        if not chosen:
            there = sorted({trials.candidates for trials in frozen})
            raise ValueError(
                f"train.validate.candidates = {config.candidates}: {path} has no such trials, only "
                f"{', '.join(map(str, there))}; choose one of them"
            )
        chosen = [_first(trials, config.pairs) for trials in chosen]
        pairs = np.unique(np.concatenate([np.append(t.choices, t.anchors) for t in chosen]))
        index = PairIndex.read(folder, SPLIT)
        samples = round(config.clip_s * SAMPLE_RATE_HZ)
        if samples > index.samples:
            raise ValueError(
                f"train.validate.clip_s = {config.clip_s:g} s is more than the "
                f"{index.samples / SAMPLE_RATE_HZ:g} s of the pairs; lower it or raise "
                f"render.pair_s.{SPLIT}"
            )
        return Validation(index, samples, [t.among(pairs) for t in chosen], pairs)

    def accuracies(self, model: Phalar, world: World) -> dict[str, float]:
        """Measure top-1 accuracy by source, and their mean, 0..1; all processes share the work."""
        model.eval()
        own = self.pairs[world.rank :: world.size]
        embedded = torch.cat([z.cpu() for z in self.embed(model, world, own)])
        model.train()
        z_P2RD = torch.empty((len(self.pairs), *embedded.shape[1:]), dtype=embedded.dtype)
        for rank, part in enumerate(distributed.collect(embedded)):
            z_P2RD[rank :: world.size] = part
        found = {}
        for trials in self.trials:
            anchors, positives = z_P2RD.to(world.device).unbind(1)
            with torch.no_grad():
                scores = model.score_matrix(anchors, positives, commutative=True)
            ranks = score_trials(scores.cpu().numpy(), trials)
            found[trials.source] = float(np.mean(ranks == 0))
        return {**found, "mean": float(np.mean(list(found.values())))}

    def embed(self, model: Phalar, world: World, pairs: NDArray[np.int64]) -> list[torch.Tensor]:
        """Embed both sides of pairs, in batches of (B, 2, R, D)."""
        dtype = next(model.parameters()).dtype
        start = (self.index.samples - self.samples) // 2
        found = []
        for here in np.split(pairs, range(PAIRS_A_BATCH, len(pairs), PAIRS_A_BATCH)):
            stored = np.empty((len(here), 2, self.samples), np.int16)
            read_crops(self.index, here, np.full(len(here), start), stored)
            wave_BN = torch.from_numpy(stored).to(world.device).flatten(0, 1).float() / 2**15
            with torch.no_grad():
                z_BRD = model.encode(model.features(wave_BN).to(dtype))
            found.append(z_BRD.reshape(-1, 2, *z_BRD.shape[1:]))
        return found


def _first(trials: Trials, most: int) -> Trials:
    """Keep the first trials as long as they need at most so many pairs."""
    needed: set[int] = set()
    count = 0
    for anchor, choices in zip(trials.anchors, trials.choices, strict=True):
        needed |= {int(anchor), *map(int, choices)}
        if len(needed) > most:
            break
        count += 1
    if not count:
        raise ValueError(
            f"train.validate.pairs = {most} does not suffice for a trial of {trials.candidates} "
            f"candidates; raise it, or lower train.validate.candidates"
        )
    return replace(
        trials,
        anchors=trials.anchors[:count],
        choices=trials.choices[:count],
        answers=trials.answers[:count],
    )
