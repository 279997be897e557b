"""Are percentiles right for other songs? Mismatched pairs of the valid split are even in them.

Run it with `python benchmarks/calibration.py --data data`. Percentiles are those that the
evaluation measured on the test songs; of pairs of other songs, that do not belong together either,
one in twenty should be told less than 5 of 100, and so on. Long sound is scored by the mean of its
windows, which is compared with means, and here with the scores of single windows beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import phalar
from phalar.calibration import COUNTS
from phalar.evaluate.mismatched import long_scores
from phalar.params import Paths

PERCENTS = (1, 5, 50, 95, 99)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = phalar.load_model(given.data / "train")
    sources = sorted(folder.name for folder in (given.data / "prepare").iterdir())
    paths = Paths(given.data)
    found = [long_scores(model, paths, source, split="valid", seed=7) for source in sources]
    print(f"{', '.join(sources)}: {' and '.join(str(len(each)) for each in found)} pairs")
    for count in (1, *COUNTS):
        # Each source counts alike, as in the calibration.
        even = np.linspace(0, 1, 2001)
        scores = np.concatenate([np.quantile(each[:, :count].mean(1), even) for each in found])
        for told in sorted({1, count}):
            percents = [phalar.percentile(model, score, windows=told) for score in scores]
            if None in percents:
                raise SystemExit(f"{given.data}: its calibration has no means; evaluate again")
            shares = zip(PERCENTS, np.percentile(percents, PERCENTS), strict=True)
            text = ", ".join(f"{share} % below {percent:.1f}" for share, percent in shares)
            print(f"mean of {count}, told as of {told}: {text}")


if __name__ == "__main__":
    main()
