"""Starts finer than the grid: found where they are, scored as they sound, for a loop too."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from phalar.model import ModelConfig, Phalar, build_model
from phalar.search import Moment, Searcher, Wanted, build, change, open_index
from phalar.search.fit import AT_ONCE, fit
from phalar.search.moment import read_moment, windows_of
from phalar.search.windows import Grid

RATE_HZ = 16_000
GRID = Grid(window_s=2.0, hop_s=1.0)


@pytest.fixture(scope="module")
def model() -> Phalar:
    """A model to which nothing fits a sound as well as that sound itself."""
    made = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    made.similarity.start_at_identity(5.0)
    return made


def notes(seconds: float, seed: int) -> np.ndarray:
    """Notes at random times, so that no two moments are alike."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(round(seconds * RATE_HZ))
    for at in rng.uniform(0, seconds, round(5 * seconds)):
        time_s = np.arange(len(sound) - int(at * RATE_HZ)) / RATE_HZ
        tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * time_s) * np.exp(-8 * time_s)
        sound[-len(time_s) :] += 0.1 * tone
    return (sound / max(1, np.abs(sound).max())).astype(np.float32)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, model) -> Searcher:
    root = tmp_path_factory.mktemp("fit") / "stems"
    root.mkdir()
    for seed in range(4):
        soundfile.write(root / f"{seed}.wav", notes(7, seed), RATE_HZ)
    soundfile.write(root / "loop.wav", notes(1.2, 9), RATE_HZ)
    build.update(root, root / ".phalar", model, model_name="m", model_sha256="m", grid=GRID)
    return Searcher(open_index(root))


def mix_of(tmp_path: Path, sound: np.ndarray, start_s: float):
    soundfile.write(tmp_path / "mix.wav", sound, RATE_HZ, subtype="FLOAT")
    return read_moment([tmp_path / "mix.wav"], Moment(start_s), GRID)


@pytest.mark.parametrize("start_s", [2.37, 0.81, 3.645])
def test_a_start_off_the_grid_is_found_to_milliseconds(searcher, model, tmp_path, start_s) -> None:
    sound = notes(7, 2)
    # The mix starts somewhere else than the file: its moment at 1.5 s is the file's at `start_s`.
    padded = np.concatenate((np.zeros(4 * RATE_HZ, np.float32), sound))
    mix = mix_of(tmp_path, padded[round((4 + start_s - 1.5) * RATE_HZ) :], 1.5)
    coarse = fit(model, searcher, mix, Wanted(top=3), refine=False)
    found = fit(model, searcher, mix, Wanted(top=3))
    assert found[0].entry.path == "2.wav"
    assert found[0].start_s == pytest.approx(start_s, abs=0.012)
    assert abs(coarse[0].start_s - start_s) > 0.1
    assert found[0].score > coarse[0].score
    assert found[0].score == pytest.approx(5, abs=0.2)


def test_scores_are_those_of_what_is_heard(searcher, model, tmp_path) -> None:
    mix = mix_of(tmp_path, notes(6, 30), 1.3)
    found = fit(model, searcher, mix, Wanted(top=5))
    assert len({each.entry.path for each in found}) == 5
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
    z = model.embed(mix.sound, RATE_HZ)
    for each in found:
        heard = change.read_from(searcher, each, mix.samples)
        assert each.start_s >= 0
        assert each.score == pytest.approx(float(model.score(z, model.embed(heard, RATE_HZ))), 1e-3)


def test_a_file_that_is_gone_is_left_out_and_said(searcher, model, tmp_path, caplog) -> None:
    mix = mix_of(tmp_path, notes(6, 30), 1.3)
    best = fit(model, searcher, mix, Wanted(top=5))[0]
    path = searcher.index.path_of(best.entry)
    aside = path.rename(path.with_suffix(".aside"))
    try:
        found = fit(model, searcher, mix, Wanted(top=5))
    finally:
        aside.rename(path)
    assert len(found) == 4
    assert best.entry.path not in {each.entry.path for each in found}
    assert "left out: " in caplog.text


@pytest.mark.parametrize("start_s", [0.47, 0.004, 1.196])
def test_a_loop_is_found_from_any_place_of_it(searcher, model, tmp_path, start_s) -> None:
    mix = mix_of(tmp_path, np.roll(np.tile(notes(1.2, 9), 5), -round(start_s * RATE_HZ)), 1.2)
    best = fit(model, searcher, mix, Wanted(top=1))[0]
    assert best.entry.path == "loop.wav"
    assert 0 <= best.start_s < 1.2
    off_s = (best.start_s - start_s + 0.6) % 1.2 - 0.6
    assert off_s == pytest.approx(0, abs=0.012)


def test_a_copy_stands_for_a_file_that_is_gone(model, tmp_path, caplog) -> None:
    root = tmp_path / "stems"
    root.mkdir()
    for name in ("bass.wav", "zbass.wav"):
        soundfile.write(root / name, notes(7, 2), RATE_HZ)
    build.update(root, root / ".phalar", model, model_name="m", model_sha256="m", grid=GRID)
    (root / "bass.wav").unlink()
    mix = mix_of(tmp_path, notes(7, 2), 1.3)
    there = Searcher(open_index(root))
    assert [each.entry.path for each in fit(model, there, mix, Wanted())] == ["zbass.wav"]
    assert not caplog.text
    # Not one that is not wanted.
    assert fit(model, there, mix, Wanted(exclude=frozenset(["zbass"]))) == []
    assert caplog.text.count("left out: ") == 1


def test_a_file_that_goes_meanwhile_stays_as_it_was_heard(
    searcher, model, tmp_path, caplog, monkeypatch
) -> None:
    mix = mix_of(tmp_path, notes(7, 2), 1.3)

    def read(searcher, found, samples):
        if samples > mix.samples and found.entry.path == "2.wav":
            raise FileNotFoundError("2.wav: gone")
        return change.read_from(searcher, found, samples)

    monkeypatch.setattr("phalar.search.fit.read_from", read)
    best = fit(model, searcher, mix, Wanted(top=3))[0]
    assert (best.entry.path, best.start_s) == ("2.wav", pytest.approx(1.3, abs=0.03))
    assert "2.wav: gone; its start is that of before" in caplog.text


def test_a_long_moment_is_heard_a_few_windows_at_a_time(
    searcher, model, tmp_path, monkeypatch
) -> None:
    most = []
    embed = Phalar.embed
    monkeypatch.setattr(Phalar, "embed", lambda self, clips, *rest, **more:
                        most.append(clips.size) or embed(self, clips, *rest, **more))  # fmt: skip
    soundfile.write(tmp_path / "mix.wav", notes(7, 2), RATE_HZ)
    mix = read_moment([tmp_path / "mix.wav"], Moment(0.3, 6.0), GRID)
    found = fit(model, searcher, mix, Wanted(top=5))
    assert {each.windows for each in found} == {5}
    assert max(most) <= AT_ONCE * GRID.window_samples


def test_a_mix_of_the_moment_alone_is_moved_into_silence(searcher, model, tmp_path) -> None:
    sound = notes(7, 1)[round(3.12 * RATE_HZ) : round(5.12 * RATE_HZ)]
    best = fit(model, searcher, mix_of(tmp_path, sound, 0.0), Wanted(top=1))[0]
    assert (best.entry.path, best.start_s) == ("1.wav", pytest.approx(3.12, abs=0.012))


def test_a_changed_candidate_starts_where_it_fits_too(searcher, model, tmp_path) -> None:
    """The mix is a file played faster, by a phase vocoder as the search uses it."""
    factor = 1.25
    faster = change.apply(notes(7, 3), change.Change(0, factor))
    mix = mix_of(tmp_path, faster, 2.3)
    tried = [change.NONE, change.Change(0, factor)]
    best = fit(model, searcher, mix, Wanted(top=2), tried)[0]
    assert (best.entry.path, best.stretch) == ("3.wav", factor)
    assert best.start_s == pytest.approx(2.3 * factor, abs=0.03)


def test_a_mix_is_moved_within_what_there_is(tmp_path) -> None:
    sound = notes(6, 5)
    mix = mix_of(tmp_path, sound, 1.0)
    low, high = mix.reach(2 * RATE_HZ)
    assert (low, high) == (-RATE_HZ, RATE_HZ)
    np.testing.assert_array_equal(mix.shifted(800), sound[16_800 : 16_800 + 2 * RATE_HZ])
    first = mix_of(tmp_path, sound, 0.0)
    assert first.reach(RATE_HZ) == (0, RATE_HZ)
    assert len(windows_of(first.shifted(RATE_HZ), GRID)) == 1
