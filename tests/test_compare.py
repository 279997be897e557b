"""Two models compared on the same trials: paired, by song, and only where they were asked alike."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from phalar import cli
from phalar.evaluate import ranks
from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.compare import compare

DRAW = {"resamples": 1000, "seed": 1}


def table(rank: np.ndarray, songs: int, asked: str = "a question") -> pa.Table:
    """Ranks on trials of K = 8, as many a song, asked from both sides: the second time all fail."""
    rows = [
        {
            "source": "made", "protocol": "paper", "candidates": 8, "asks": asks, "trial": trial,
            "pair": trial, "song": f"song{trial % songs}", "rank": value if asks == "anchor" else 7,
        }
        for asks in ("anchor", "positive") for trial, value in enumerate(rank.tolist())
    ]  # fmt: skip
    return ranks.table(rows, asked)


def test_a_better_model_is_found_better_and_the_other_way_round() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(400)
    good, poor = ((rng.random(400) < failing * hard) * 3 for failing in (0.5, 0.9))
    (ab,) = compare(table(good, 20), table(poor, 20), **DRAW)
    (ba,) = compare(table(poor, 20), table(good, 20), **DRAW)
    assert ab.difference == pytest.approx(np.mean(good == 0) - np.mean(poor == 0)) == ab.a - ab.b
    assert 0 < ab.low < ab.difference < ab.high
    assert ab.p < 0.05
    assert (ba.difference, ba.p) == pytest.approx((-ab.difference, ab.p))
    assert (ba.low, ba.high) == pytest.approx((-ab.high, -ab.low))
    assert (ab.trials, ab.songs) == (400, 20)


def test_equal_models_differ_by_nothing() -> None:
    rank = np.random.default_rng(1).integers(8, size=100)
    (found,) = compare(table(rank, 10), table(rank, 10), **DRAW)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_other_side_can_be_asked_for() -> None:
    rank = np.zeros(20, dtype=int)
    (found,) = compare(table(rank, 4), table(rank + 1, 4), **DRAW, asks="positive")
    assert (found.a, found.b) == (0, 0)


def test_one_song_says_nothing_of_others() -> None:
    (found,) = compare(table(np.zeros(9, int), 1), table(np.ones(9, int), 1), **DRAW)
    assert (found.difference, found.low, found.high, found.p) == (1, -1, 1, 1)


def test_other_trials_are_refused() -> None:
    rank = np.zeros(20, dtype=int)
    with pytest.raises(ValueError, match=r"were asked different trials .* evaluate both"):
        compare(table(rank, 4), table(rank, 4, "another"), **DRAW)
    with pytest.raises(ValueError, match="were asked different trials"):
        compare(table(rank, 4), table(rank, 5), **DRAW)


@pytest.mark.parametrize("songs", [6, 30])
def test_chance_alone_is_called_a_difference_in_one_of_twenty_cases(songs) -> None:
    """Two models of one strength, each better on songs of its own: p is below 0.05 in 5 %."""
    rng = np.random.default_rng(2)
    names = np.repeat(np.arange(songs), 10).astype(str)
    found = []
    for _ in range(600):
        lean = np.repeat(rng.uniform(-0.5, 0.5, songs), 10)
        bootstrap = Bootstrap(names, resamples=4000, seed=int(rng.integers(1 << 30)))
        differences = (rng.random(songs * 10) < np.abs(lean)) * np.sign(lean)
        found.append((bootstrap.p_value(differences), *bootstrap.mean(differences)))
    p, low, high = np.array(found).T
    assert 0.02 < np.mean(p < 0.05) < 0.08
    # The p-value and the interval say the same, but for the grid of the resamples.
    assert np.mean((p < 0.05) == ((low > 0) | (high < 0))) > 0.98


def test_median_rank_and_its_interval_equal_a_loop() -> None:
    rng = np.random.default_rng(3)
    rank, songs = rng.integers(8, size=60), np.repeat(np.arange(6), 10).astype(str)
    bootstrap = Bootstrap(songs, resamples=300, seed=4)
    drawn = np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=300)
    of_song = [rank[songs == str(song)] for song in range(6)]
    medians = []
    for row in drawn:
        both = np.concatenate([np.tile(own, n) for own, n in zip(of_song, row, strict=True)])
        medians.append(1 + np.sort(both)[29])
    tail = stats.norm.cdf(stats.t.ppf(0.025, df=5) * np.sqrt(6 / 5))
    expected = np.quantile(medians, [tail, 1 - tail])
    assert bootstrap.median_rank(rank, 8) == pytest.approx(expected)


def test_ranks_come_back_or_are_refused(tmp_path) -> None:
    made = table(np.zeros(5, int), 2)
    ranks.write(tmp_path / ranks.RANKS, made)
    back = ranks.read(tmp_path)
    assert back.equals(made)
    assert dataclasses.asdict(compare(back, made, **DRAW)[0])["difference"] == 0
    with pytest.raises(ValueError, match=r"ranks\.parquet: missing or damaged .* evaluate again"):
        ranks.read(tmp_path / "away" / "ranks.parquet")
    (tmp_path / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="missing or damaged"):
        ranks.read(tmp_path / "trials.parquet")


def test_the_command_compares_two_folders(tmp_path, capsys) -> None:
    for name, rank in (("new", 0), ("old", 3)):
        (tmp_path / name).mkdir()
        ranks.write(tmp_path / name / ranks.RANKS, table(np.full(20, rank), 4))
    params = ["--params", str(Path(__file__).parents[1] / "params.yaml")]
    arguments = ["compare", str(tmp_path / "new"), str(tmp_path / "old"), *params]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--json"])
    assert ended.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)["trials"]
    assert (found["a"], found["b"], found["difference"], found["songs"]) == (1, 0, 1, 4)
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "100.0..100.0" in capsys.readouterr().out
