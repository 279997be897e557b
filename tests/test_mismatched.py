"""Long mismatches: windows of different songs, one after the other, as their scores alone say."""

import numpy as np
import pytest
import torch
from tiny_render import noise_track, prepare

from phalar import tracks, withdrawn
from phalar.evaluate import mismatched
from phalar.evaluate.mismatched import long_scores
from phalar.model import ModelConfig, build_model
from phalar.params import Paths

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(mismatched, "STRETCHES", 4)


def write(tmp_path, **seconds: float):
    """Songs of one stem that is heard, so that either side of a stretch is that stem."""
    made = [song(name, length_s) for name, length_s in seconds.items()]
    paths = Paths(tmp_path / "data")
    prepare(paths.prepare("bands"), made)
    there = tracks.read_index(paths.prepare("bands"), "test")
    return paths, {track.track: tracks.read_stems(track)[0] for track in there}


def song(name: str, length_s: float, *, silent: tuple = ()):
    nothing = (1, slice(0, length_s))
    return noise_track(name, split="test", stems=2, seconds=length_s, silent=(nothing, *silent))


def test_windows_of_different_songs_are_scored_in_turn(model, tmp_path) -> None:
    paths, sounds = write(tmp_path, a=12.5, b=12.5, short=6, gone=30)
    (tmp_path / withdrawn.FILE).write_text(
        "- {track: bands/gone, reason: asked, date: '2026-01-01'}\n"
    )
    found = long_scores(model, paths, "bands", split="test", seed=3)
    # Two stretches of each of the two songs, which are as long as four windows.
    assert found.shape == (8, 4)
    starts = [round(2.5 * number * RATE_HZ) for number in range(4)]
    z = {
        name: model.embed(np.stack([sounds[name][at : at + 5 * RATE_HZ] for at in starts]), RATE_HZ)
        for name in "ab"
    }
    np.testing.assert_allclose(found, np.tile(model.score(z["a"], z["b"]), (8, 1)), atol=1e-4)
    again = long_scores(model, paths, "bands", split="test", seed=3)
    np.testing.assert_array_equal(found, again)


def test_as_many_windows_as_two_songs_have(model, tmp_path) -> None:
    paths, _ = write(tmp_path, a=30, b=8, c=9)
    assert long_scores(model, paths, "bands", split="test", seed=1).shape[1] == 2
    for number, seconds in enumerate(({"a": 30, "b": 6}, {"a": 30})):
        paths, _ = write(tmp_path / str(number), **seconds)
        assert long_scores(model, paths, "bands", split="test", seed=1).shape == (0, 0)


def test_a_stretch_is_heard_all_along(model, tmp_path) -> None:
    songs = [song("a", 12.5), song("b", 12.5), song("quiet", 12.5, silent=((0, slice(5, 11)),))]
    paths = Paths(tmp_path / "data")
    prepare(paths.prepare("bands"), songs)
    found = long_scores(model, paths, "bands", split="test", seed=2)
    alone = [np.unique(found[:, window].round(3)) for window in range(4)]
    assert all(len(scores) == 1 for scores in alone)
