"""What the evaluate stage takes of memory with 10,000 pairs of 5 s.

`python benchmarks/evaluation.py --data data` hears some pairs of a rendered test split and prints
how memory grows with them, then goes on in the same process with 10,000 pairs of one source, whose
embeddings are drawn at random: everything that the stage makes of scores. Peaks are those of the
process up to there, libraries and model included.
"""

from __future__ import annotations

import argparse
import resource
from functools import partial
from pathlib import Path

import numpy as np

from phalar import calibration
from phalar import params as parameters
from phalar.evaluate import hearing, plots, ranks
from phalar.evaluate.baselines import SCORERS
from phalar.evaluate.details import Facts, measure_details
from phalar.evaluate.hearing import Heard
from phalar.evaluate.measure import MODEL, measure
from phalar.evaluate.mismatched import mismatched_scores
from phalar.evaluate.retrieval import Trials
from phalar.model import load_model

PAIRS, SONGS, INSTRUMENTS = 10_000, 500, 12
PROTOCOLS = ("paper", "songs")
"""Each is asked of its own half of the pairs, as in the stage."""
CANDIDATES = (8, 16, 64)
WIDTHS = {MODEL: (2, 512), "loudness": (1,), "spectrum": (96,)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--heard", type=int, default=600, help="pairs; default: %(default)s")
    words = parser.parse_args()
    settings = parameters.load(Path("params.yaml"))
    model = load_model(words.data / "train")
    hear = partial(hearing.hear, model, words.data / "render", split="test", clip_s=5.0)
    hear(wanted=np.arange(100))  # what is made at first use
    before = anonymous_mib()
    hear(wanted=np.arange(words.heard))
    print(f"{words.heard} pairs heard: {anonymous_mib() - before:+.0f} MiB; {peak()}")

    rng = np.random.default_rng(1)
    trials = [made for place in range(len(PROTOCOLS)) for made in draw(place, rng)]
    songs = {pair: f"song{pair % SONGS}" for pair in range(PAIRS)}
    sides = {
        name: tuple(rng.standard_normal((2, PAIRS, *width), np.float32))
        for name, width in WIDTHS.items()
    }
    heard = Heard(np.arange(PAIRS), {name: (a, b) for name, (a, b) in sides.items()})
    assert sides.keys() == {MODEL, *SCORERS}
    score = partial(hearing.score, model)
    measured = measure(heard, trials, songs, settings.evaluate, score=score)
    print(f"{PAIRS} pairs measured; {peak()}")
    facts = {
        pair: Facts(
            song,
            1 + pair % 4,
            ("bass",),
            (f"instrument{pair % INSTRUMENTS}",),
            90.0 + pair % 60,
            pair % 12,
        )
        for pair, song in songs.items()
    }
    measure_details(measured.groups, facts, settings.evaluate)
    print(f"and in detail; {peak()}")
    plots.score_distributions(measured.groups, songs)
    plots.rank_histogram(measured.groups)
    plots.overview(measured)
    print(f"and drawn; {peak()}")
    ranks.table(measured.ranks, "")
    calibration.measure(mismatched_scores(measured, songs), str(model.sha256))
    print(f"and calibrated; {peak()}")


def draw(place: int, rng: np.random.Generator) -> list[Trials]:
    """Draw trials of a protocol, one of each K: every pair of its share is an anchor once."""
    share = np.array_split(np.arange(PAIRS), len(PROTOCOLS))[place]
    made = []
    for k in CANDIDATES:
        choices = rng.choice(share, (len(share), k))
        answers = rng.integers(0, k, len(share))
        choices[np.arange(len(share)), answers] = share
        made.append(Trials("one", PROTOCOLS[place], share, choices, answers))
    return made


def peak() -> str:
    """Give the largest memory that the process has had."""
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def anonymous_mib() -> float:
    """Memory of the process that is not a file's, on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 2**10


if __name__ == "__main__":
    main()
