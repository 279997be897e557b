"""What retrieval costs once 10,000 pairs are embedded: scores, ranks, every K, intervals.

`python benchmarks/retrieval.py` prints CPU seconds on one thread beside those of embedding the
clips of as many pairs, extrapolated from 64 clips, and the peak of memory.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from phalar.evaluate import hearing, retrieval
from phalar.evaluate.bootstrap import Bootstrap
from phalar.model import ModelConfig, build_model

PAIRS, SONGS, CLIPS = 10_000, 500, 64
CLIP_SAMPLES = 80_000


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    clips = torch.from_numpy(rng.standard_normal((CLIPS, CLIP_SAMPLES), np.float32) * 0.1)
    with torch.inference_mode():
        model(clips[:4])  # what is made at first use
        start = time.process_time()
        for few in clips.split(4):
            model(few)
    embedding_s = (time.process_time() - start) / CLIPS * 2 * PAIRS

    sides = rng.standard_normal((2, PAIRS, 2, 512), np.float32)
    songs = [f"song{pair % SONGS}" for pair in range(PAIRS)]
    start = time.process_time()
    scores = hearing.score_embedded(model, *sides)
    scored_s = time.process_time() - start
    for seen in (scores, scores.T):
        for same_song in (True, False):
            ranks, others = retrieval.rank_among_all(seen, songs, same_song=same_song)
            retrieval.expected_top1(ranks, others, int(others.min()) + 1)
            Bootstrap(songs, resamples=10_000, seed=1).mean((ranks == 0) * 1.0)
    all_s = time.process_time() - start
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{PAIRS} pairs, CPU seconds on one thread")
    print(f"embedding both sides  {embedding_s:7.1f}  (from {CLIPS} clips)")
    print(f"scores                {scored_s:7.1f}")
    print(f"and ranks, every K    {all_s:7.1f}  (both directions, with and without the own song)")
    print(f"share of embedding    {100 * all_s / embedding_s:7.1f} %")
    print(f"peak memory           {peak_gib:7.2f} GiB")


if __name__ == "__main__":
    main()
