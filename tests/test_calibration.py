"""Percentiles among mismatched pairs: right by construction, found beside their model only."""

import json

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
                                        "scores": [0, 1]})):  # fmt: skip
        (tmp_path / calibration.FILE).write_text(text)
        with pytest.raises(ValueError, match=r"calibration\.json: "):
            calibration.find(tmp_path, "m")
