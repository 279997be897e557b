"""Trial scoring, intervals and expected accuracy against slow, obvious versions."""

from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phalar.evaluate import retrieval
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.measure import summary
from phalar.evaluate.retrieval import Trials


def draw_trials(pairs: int, candidates: int, rng: np.random.Generator) -> Trials:
    """One trial for each pair, with random distractors and a random place for the true one."""
    choices, answers = [], rng.integers(candidates, size=pairs)
    for pair in range(pairs):
        others = rng.permutation(np.delete(np.arange(pairs), pair))[: candidates - 1]
        choices.append(np.insert(others, answers[pair], pair))
    return Trials("made", "paper", np.arange(pairs), np.array(choices), answers)


def test_ranks_equal_a_loop() -> None:
    rng = np.random.default_rng(1)
    trials, scores = draw_trials(40, 8, rng), rng.normal(size=(40, 40))
    expected = []
    for anchor, choices, answer in zip(trials.anchors, trials.choices, trials.answers, strict=True):
        row = [scores[anchor, choice] for choice in choices]
        expected.append(sorted(row, reverse=True).index(row[answer]))
    np.testing.assert_array_equal(retrieval.score_trials(scores, trials), expected)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_scorer_that_says_nothing_never_hits(value: float) -> None:
    trials = draw_trials(20, 8, np.random.default_rng(1))
    ranks = retrieval.score_trials(np.full((20, 20), value), trials)
    np.testing.assert_array_equal(ranks, 7)


def test_perfect_scorer_hits_always_and_random_one_at_chance() -> None:
    rng = np.random.default_rng(1)
    trials = draw_trials(400, 16, rng)
    songs = [f"song{pair // 4}" for pair in range(400)]
    bootstrap = Bootstrap(songs, resamples=2000, seed=1)
    perfect = summary(retrieval.score_trials(np.eye(400), trials), bootstrap)
    assert perfect == {"top1": 1.0, "low": 1.0, "high": 1.0, "mrr": 1.0, "trials": 400}
    ranks = retrieval.score_trials(rng.normal(size=(400, 400)), trials)
    chance = summary(ranks, bootstrap)
    assert chance["low"] < 1 / 16 < chance["high"]


def test_pairs_are_numbered_within_a_subset_or_refused() -> None:
    trials = Trials("made", "paper", np.array([7]), np.array([[9, 7]]), np.array([1]))
    numbered = trials.among(np.array([2, 7, 9]))
    assert (numbered.anchors.tolist(), numbered.choices.tolist()) == ([1], [[2, 1]])
    with pytest.raises(ValueError, match=r"made/paper/2: 1 pairs \(first 9\) are not in"):
        trials.among(np.array([2, 7]))


def test_trials_come_back_by_source_protocol_and_k(tmp_path) -> None:
    rows = [
        {"split": split, "source": source, "protocol": "paper", "candidates": k, "trial": trial,
         "anchor": trial, "choices": list(range(k)), "answer": trial}
        for split, source, k, trial in product(["test", "valid"], "ba", [2, 3], [1, 0])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "trials.parquet")
    found = retrieval.read_trials(tmp_path / "trials.parquet", "test")
    keys = [(trials.source, trials.protocol, trials.candidates) for trials in found]
    assert keys == [(source, "paper", k) for source, k in product("ab", [2, 3])]
    assert all(trials.anchors.tolist() == trials.answers.tolist() == [0, 1] for trials in found)
    with pytest.raises(ValueError, match="no trials of split 'train'; render again"):
        retrieval.read_trials(tmp_path / "trials.parquet", "train")


def test_expected_accuracy_equals_all_draws() -> None:
    scores = np.random.default_rng(1).normal(size=(7, 7))
    ranked = retrieval.rank_among_all(scores, list("abbcccd"), same_song=True)
    for k, expected in enumerate(retrieval.expected_top1(*ranked, 7), start=1):
        draws = [
            all(scores[anchor, anchor] > scores[anchor, other] for other in drawn)
            for anchor in range(7)
            for drawn in combinations([pair for pair in range(7) if pair != anchor], k - 1)
        ]
        assert expected == pytest.approx(np.mean(draws), abs=1e-12)


def test_expected_accuracy_without_the_own_song_equals_all_draws() -> None:
    songs = list("abbcccd")
    scores = np.random.default_rng(4).normal(size=(7, 7))
    ranked = retrieval.rank_among_all(scores, songs, same_song=False)
    for k, expected in enumerate(retrieval.expected_top1(*ranked, 5), start=1):
        anchors = []
        for anchor in range(7):
            others = [pair for pair in range(7) if songs[pair] != songs[anchor]]
            draws = combinations(others, k - 1)
            beats = scores[anchor, anchor] > scores[anchor]
            anchors.append(np.mean([all(beats[pair] for pair in drawn) for drawn in draws]))
        assert expected == pytest.approx(np.mean(anchors), abs=1e-12)


def test_ranks_among_all_equal_sorting() -> None:
    scores = np.random.default_rng(5).normal(size=(30, 30))
    ranks, others = retrieval.rank_among_all(scores, ["song"] * 30, same_song=True)
    places = [np.argsort(-row).tolist().index(pair) for pair, row in enumerate(scores)]
    assert (ranks.tolist(), set(others.tolist())) == (places, {29})
    silent, _ = retrieval.rank_among_all(np.full((30, 30), np.nan), ["a"] * 30, same_song=True)
    assert set(silent.tolist()) == {29}


def test_expected_accuracy_among_songs_equals_all_draws() -> None:
    songs = list("abbcccd")
    scores = np.random.default_rng(2).normal(size=(7, 7))
    for k, expected in enumerate(retrieval.expected_top1_songs(scores, songs, 4), start=1):
        anchors = []
        for anchor in range(7):
            others = sorted(set(songs) - {songs[anchor]})
            # Songs are drawn first, then a pair of each: a draw counts by how many it stands for.
            chances = [
                np.mean([
                    all(scores[anchor, anchor] > scores[anchor, pair] for pair in drawn)
                    for drawn in product(*([p for p in range(7) if songs[p] == s] for s in chosen))
                ])
                for chosen in combinations(others, k - 1)
            ]  # fmt: skip
            anchors.append(np.mean(chances))
        assert expected == pytest.approx(np.mean(anchors), abs=1e-12)


def test_expected_accuracy_is_what_sampled_trials_approach() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(60, 60)) + 2 * np.eye(60)
    hits = [retrieval.score_trials(scores, draw_trials(60, 8, rng)) == 0 for _ in range(300)]
    ranked = retrieval.rank_among_all(scores, ["song"] * 60, same_song=True)
    assert retrieval.expected_top1(*ranked, 8)[7] == pytest.approx(np.mean(hits), abs=0.01)


def test_interval_covers_the_truth_where_songs_differ() -> None:
    """Hits of a song share its difficulty: 95 % of the intervals hold the mean over all songs."""
    rng = np.random.default_rng(4)
    songs = np.repeat(np.arange(10), 12).astype(str)
    covered = []
    for _ in range(1000):
        difficulty = np.repeat(rng.beta(2, 2, size=10), 12)
        hits = (rng.random(120) < difficulty) * 1.0
        low, high = Bootstrap(songs, resamples=500, seed=1).mean(hits)
        covered.append(low <= 0.5 <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_interval_counts_songs_not_trials() -> None:
    hits, songs = np.repeat([0.0, 1.0] * 10, 20), np.repeat(np.arange(20), 20).astype(str)
    low, high = Bootstrap(songs, resamples=1000, seed=1).mean(hits)
    of_20, of_400 = (2 * 1.96 * 0.5 / np.sqrt(count) for count in (20, 400))
    assert of_400 < 0.3 * (high - low) < 0.5 * of_20
    assert Bootstrap(["one"] * 400, resamples=1000, seed=1).mean(hits) == (0.0, 1.0)


def test_missing_or_damaged_trials_are_named(tmp_path) -> None:
    path = tmp_path / "trials.parquet"
    with pytest.raises(ValueError, match=r"trials\.parquet: missing or damaged .* render again"):
        retrieval.read_trials(path, "test")
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"trials\.parquet: missing or damaged .* render again"):
        retrieval.read_trials(path, "test")
