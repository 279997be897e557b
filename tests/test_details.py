"""Figures in detail against slow, obvious versions."""

import numpy as np
import pytest
import yaml

from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.details import Facts, figures, measure_details
from phalar.evaluate.measure import Group
from phalar.evaluate.retrieval import Trials
from phalar.params import Evaluate

SETTINGS = Evaluate(seed=1, clip_s=5.0, bootstrap=500, sensitivity_pairs=0, beats=None, chords=None)
PAIRS = 48


@pytest.fixture
def music():
    """Facts of pairs of 8 songs; half have one target, half two; a song has one tempo and key."""
    kinds = ("bass", "drums", "guitar")
    return {
        100 + pair: Facts(
            song=f"song{pair % 8}",
            stems=1 + pair % 5,
            asks=("piano",),
            targets=(kinds[pair % 3],) if pair % 2 else tuple(sorted({kinds[pair % 3], "voice"})),
            tempo_bpm=100.0 * 1.03 ** (pair % 8),
            sharps=(7 * (pair % 8)) % 12 if pair % 8 < 7 else None,
        )
        for pair in range(PAIRS)
    }


def group_of(scores: np.ndarray, protocol: str = "paper") -> Group:
    rng = np.random.default_rng(1)
    trials = []
    for k in (4, 16):
        choices = np.array([
            rng.permutation([pair, *rng.permutation(np.delete(np.arange(PAIRS), pair))[: k - 1]])
            for pair in range(PAIRS)
        ])  # fmt: skip
        answers = np.argmax(choices == np.arange(PAIRS)[:, None], axis=1)
        trials.append(Trials("made", protocol, np.arange(PAIRS), choices, answers))
    return Group(trials, 100 + np.arange(PAIRS), scores)


def test_every_figure_equals_a_loop() -> None:
    ranks = np.random.default_rng(1).integers(16, size=50)
    songs = [f"song{trial // 5}" for trial in range(50)]
    found = figures(ranks, 16, Bootstrap(songs, resamples=500, seed=1))
    places = [rank + 1 for rank in ranks.tolist()]
    assert found["top1"] == pytest.approx(sum(place == 1 for place in places) / 50)
    assert found["recall5"] == pytest.approx(sum(place <= 5 for place in places) / 50)
    assert found["mrr"] == pytest.approx(sum(1 / place for place in places) / 50, abs=1e-6)
    assert found["median_rank"] == sorted(places)[24]
    for name in ("top1", "recall5", "mrr", "median_rank"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert (found["trials"], found["songs"]) == (50, 10)


def test_a_perfect_model_is_perfect_everywhere(music) -> None:
    found = measure_details([group_of(np.eye(PAIRS))], music, SETTINGS)["made"]["paper"]
    assert found["trials"]["16"]["positive"]["median_rank_high"] == 1
    assert found["all"]["anchor"]["with"]["recall1"] == 1
    assert found["all"]["anchor"]["with"]["candidates"] == PAIRS
    assert found["all"]["anchor"]["without"]["candidates"] == PAIRS - 5
    assert {entry["top1"] for entry in found["instruments"].values()} == {1}
    for distance in ("tempo", "key"):
        assert {entry["beaten"] for entry in found[distance].values()} == {1}
    for right, picked in found["confusion"].items():
        assert set(picked) == {right}


def test_a_random_model_is_at_chance_in_both_directions(music) -> None:
    trials = []
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(PAIRS, PAIRS))
        found = measure_details([group_of(scores)], music, SETTINGS)["made"]["paper"]
        trials += [found["trials"]["4"][asks] for asks in ("anchor", "positive")]
    assert np.mean([trial["top1"] for trial in trials]) == pytest.approx(1 / 4, abs=0.03)
    assert np.mean([trial["top1_low"] <= 1 / 4 <= trial["top1_high"] for trial in trials]) > 0.85
    assert trials[0] != trials[1]


def test_groups_and_tempo_equal_loops(music) -> None:
    scores = np.random.default_rng(3).normal(size=(PAIRS, PAIRS)) + np.eye(PAIRS)
    group = group_of(scores)
    found = measure_details([group], music, SETTINGS)["made"]["paper"]
    trials = group.trials[-1]
    hits = [
        all(scores[pair, pair] > scores[pair, other] for other in row if other != pair)
        for pair, row in enumerate(trials.choices)
    ]
    bass = [hit for pair, hit in enumerate(hits) if "bass" in music[100 + pair].targets]
    assert found["instruments"]["bass"]["top1"] == pytest.approx(np.mean(bass), abs=1e-6)
    assert found["stems"].keys() == {"1", "2", "3", "4+"}
    many = [hit for pair, hit in enumerate(hits) if music[100 + pair].stems >= 4]
    assert found["stems"]["4+"]["trials"] == len(many)
    beaten = []
    for a in range(PAIRS):
        for b in range(PAIRS):
            ratio = 1.03 ** abs(a % 8 - b % 8)
            if a % 8 != b % 8 and 1.02 <= ratio < 1.05:
                beaten.append(scores[a, a] > scores[a, b])
    assert found["tempo"]["1.02"]["comparisons"] == len(beaten)
    assert found["tempo"]["1.02"]["beaten"] == pytest.approx(np.mean(beaten), abs=1e-6)
    assert sum(sum(picked.values()) for picked in found["confusion"].values()) == PAIRS


def test_key_distance_equals_a_loop(music) -> None:
    scores = np.random.default_rng(4).normal(size=(PAIRS, PAIRS)) + np.eye(PAIRS)
    found = measure_details([group_of(scores)], music, SETTINGS)["made"]["paper"]["key"]
    beaten: dict[str, list[bool]] = {}
    for a in range(PAIRS):
        for b in range(PAIRS):
            one, other = music[100 + a].sharps, music[100 + b].sharps
            if a % 8 != b % 8 and None not in (one, other):
                steps = next(k for k in range(7) if other in ((one + k) % 12, (one - k) % 12))
                beaten.setdefault(str(steps), []).append(scores[a, a] > scores[a, b])
    assert found.keys() == beaten.keys()
    for steps, wins in beaten.items():
        assert found[steps]["comparisons"] == len(wins)
        assert found[steps]["beaten"] == pytest.approx(np.mean(wins), abs=1e-6)
        assert found[steps]["beaten_low"] <= found[steps]["beaten"] <= found[steps]["beaten_high"]


def test_moments_of_one_song_are_asked_both_ways_and_no_more(music) -> None:
    found = measure_details([group_of(np.eye(PAIRS), "song")], music, SETTINGS)
    assert found["made"]["song"].keys() == {"trials"}


def test_details_are_plain_numbers(music) -> None:
    found = measure_details([group_of(np.eye(PAIRS))], music, SETTINGS)
    assert yaml.safe_load(yaml.safe_dump(found)) == found
