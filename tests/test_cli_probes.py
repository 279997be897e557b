"""`phalar beats` and `phalar chords` on a tiny project: tables, JSON, and what is missing."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from phalar.evaluate import beats
from phalar.model import ModelConfig, build_model, save_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_songs):
    """A project with prepared songs and an untrained model."""
    root = tmp_path_factory.mktemp("project")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = ["bands"]
    raw["evaluate"] |= {"bootstrap": 200, "beats": None}
    (root / "null.yaml").write_text(yaml.safe_dump(raw))
    raw["evaluate"]["beats"] = {"songs": 2, "seconds": 6.0, "gtzan": None}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    tiny_songs(root / "data/prepare/bands", source="bands", songs=3, seconds=6.0)
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    save_model(model, root / "data/train")
    return root


def test_beats_are_printed_beside_the_controls(call, monkeypatch) -> None:
    monkeypatch.setattr(beats, "TEMPI_BPM", (90, 120))
    code, out, _ = call("beats --songs 1 --seconds 1 --json")
    found = json.loads(out)["bands"]
    assert (code, found["pieces"], set(found["model"])) == (
        0,
        1,
        {"f1", "low", "high", "cmlt", "amlt"},
    )
    code, out, _ = call("beats --songs 1 --seconds 1")
    for word in ("model", "flux", "fixed", "GTZAN is not among them; put GTZAN's sound"):
        assert word in out
    code, _, err = call("beats --gtzan away")
    assert (code, "away: no such folder; put GTZAN's sound" in err) == (1, True)
    code, _, err = call("beats --params null.yaml")
    assert (code, err) == (
        2,
        "phalar: evaluate.beats: is null in null.yaml; give its values there\n",
    )


def test_chords_are_printed_beside_the_controls(call) -> None:
    words = "chords --seconds 4 --hop 1 --window 1 --epochs 2"
    code, out, _ = call(f"{words} --json")
    found = json.loads(out)["bands"]
    assert (code, found["windows"], found["pieces"]) == (0, 12, 3)
    assert call(f"{words} --json")[1] == out
    code, out, _ = call(words)
    for word in ("recording", "piece", "chroma", "shuffled", "majority"):
        assert word in out
    assert "GuitarSet is not among them; unpack annotation.zip" in out
    code, _, err = call("chords --guitarset away")
    assert (code, "away: no such folder; unpack annotation.zip" in err) == (1, True)
    assert call("chords --hop 0")[0] == 2
