"""Percentiles among mismatched pairs: right by construction, found beside their model only."""

import json
import pickle

import numpy as np
import pytest
import torch

import phalar
from phalar import calibration
from phalar.model import ModelConfig, build_model, save_model


def test_percentiles_are_those_of_the_pairs_and_sources_count_alike() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.uniform(0, 1, 2_000), rng.uniform(1, 2, 200_000)
    found = calibration.measure([few, many], "m")
    for score, percent in [(-1, 0), (0.5, 25), (1, 50), (1.5, 75), (1.998, 99.9), (9, 100)]:
        assert found.percentile(score) == pytest.approx(percent, abs=1)
    scores = np.linspace(-1, 3, 200)
    percents = [found.percentile(score) for score in scores]
    assert percents == sorted(percents)
    assert calibration.measure([np.empty(0)], "m").percentile(0.5) is None


def test_means_over_windows_are_compared_with_such_means() -> None:
    rng = np.random.default_rng(2)
    # Of two songs some of the score lasts, and some is each window's own.
    songs, own = rng.normal(size=(20_000, 1)), rng.normal(size=(20_000, 8))
    windows = 3 * songs + 4 * own
    found = calibration.from_record(
        calibration.as_record(calibration.measure([windows[:, 0]], "m", [windows]))
    )
    for count in (1, 2, 3, 4, 6, 8):
        means = windows[:, :count].mean(axis=1)
        percents = [
            found.percentile(score, count) for score in np.quantile(means, (0.05, 0.5, 0.95))
        ]
        assert percents == pytest.approx([5, 50, 95], abs=1)
    # By the scores of single windows, the best of a hundred would pass for the best of ten.
    best = float(np.quantile(windows.mean(axis=1), 0.99))
    assert found.percentile(best) < 95 < found.percentile(best, 8)
    assert found.percentile(best, 50) == found.percentile(best, 8)


def test_where_means_were_not_measured_they_have_no_percentile() -> None:
    record = calibration.as_record(calibration.measure([np.linspace(0, 1, 1000)], "m"))
    assert record["means"] == {}
    del record["means"]
    found = calibration.from_record(record)
    assert found.percentile(0.5) == pytest.approx(50, abs=0.1)
    assert found.percentile(0.5, 2) is None


def test_a_score_knows_of_how_many_windows_it_is() -> None:
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    rng = np.random.default_rng(1)
    windows = np.linspace(-1, 1, 1000)[:, None] * np.ones(8)
    windows[:, 1:] = 0
    made = calibration.measure([windows[:, 0]], "m", [windows])
    model.extra["calibration"] = calibration.as_record(made)
    a, b = (rng.normal(0, 0.1, 20 * 16_000).astype(np.float32) for _ in range(2))
    long = phalar.score(model, a, b, sample_rate=16_000)
    assert long.windows == 7
    expected = made.percentile(float(long), 7)
    assert phalar.percentile(model, long) == pytest.approx(expected, abs=0.01)
    alone = made.percentile(float(long))
    assert phalar.percentile(model, float(long)) == pytest.approx(alone, abs=0.01)
    assert abs(expected - alone) > 1
    assert phalar.score(model, a, b, sample_rate=16_000, seconds=5).windows == 1
    again = pickle.loads(pickle.dumps(long))
    assert (again, again.windows) == (long, 7)


def test_it_travels_with_the_model_and_not_with_another(tmp_path) -> None:
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    folder = save_model(model, tmp_path / "train")
    loaded = phalar.load_model(folder)
    assert phalar.percentile(loaded, 0.5) is None
    (tmp_path / "evaluate").mkdir()
    made = calibration.measure([np.linspace(0, 1, 1000)], str(loaded.sha256))
    calibration.write(made, tmp_path / "evaluate")
    loaded = phalar.load_model(folder)
    assert phalar.percentile(loaded, 0.5) == pytest.approx(50, abs=0.1)
    # Saved elsewhere it takes its calibration along, in model.json.
    again = phalar.load_model(save_model(loaded, tmp_path / "copy" / "model"))
    assert phalar.percentile(again, 0.5) == pytest.approx(50, abs=0.1)
    calibration.write(calibration.measure([np.ones(9)], "another"), tmp_path / "evaluate")
    assert phalar.percentile(phalar.load_model(folder), 0.5) is None


def test_damaged(tmp_path) -> None:
    for text in ("{", "{}", json.dumps({"format": 1, "model_sha256": "m", "percents": [1, 0],
                                        "scores": [0, 1]}),
                 json.dumps({"format": 1, "model_sha256": "m", "percents": [0, 1],
                             "scores": [0, 1], "means": {"2": [1, 0]}})):  # fmt: skip
        (tmp_path / calibration.FILE).write_text(text)
        with pytest.raises(ValueError, match=r"calibration\.json: "):
            calibration.find(tmp_path, "m")
