"""Beat tracking: a metronome's beats come back from an oracle's onsets, its sound, its scores."""

import numpy as np
import pytest
import soundfile

from phalar import withdrawn
from phalar.audio import SAMPLE_RATE_HZ
from phalar.evaluate import beats, pieces
from phalar.params import Paths

SECONDS = 20.0


def stroke() -> np.ndarray:
    time_s = np.arange(800) / SAMPLE_RATE_HZ
    return (0.5 * np.exp(-time_s * 120) * np.sin(2 * np.pi * 900 * time_s)).astype(np.float32)


def music(tempo_bpm: float, first_s: float) -> tuple[np.ndarray, np.ndarray]:
    times_s = np.arange(first_s, SECONDS, 60 / tempo_bpm)
    wave = np.zeros(round(SECONDS * SAMPLE_RATE_HZ) + 800, dtype=np.float32)
    for start in np.round(times_s * SAMPLE_RATE_HZ).astype(int):
        wave[start : start + 800] += stroke()
    return wave[: round(SECONDS * SAMPLE_RATE_HZ)], times_s


@pytest.mark.parametrize("tempo_bpm", [60, 97, 120, 140])
def test_beats_come_back_from_an_oracles_onsets(tempo_bpm) -> None:
    times_s = np.arange(0.3, SECONDS, 60 / tempo_bpm)
    onsets = np.zeros(round(SECONDS / beats.HOP_S))
    onsets[np.round(times_s / beats.HOP_S).astype(int)] = 1
    found = beats.judge(times_s, beats.track_beats(onsets))
    assert found.f1 > 0.97
    assert found.amlt > 0.9


def test_beats_of_a_sound_come_back_from_its_flux() -> None:
    wave, times_s = music(110, 0.5)
    assert beats.judge(times_s, beats.track_beats(beats.flux(wave))).f1 > 0.95


def test_metronome_strikes_where_it_says() -> None:
    wave = beats.metronome(60, stroke())
    struck = [wave[round(s * SAMPLE_RATE_HZ) :][:100].any() for s in (0.02, 1.02, 4.02)]
    assert struck == [True] * 3
    assert not wave[: round(0.02 * SAMPLE_RATE_HZ)].any()
    assert len(wave) == beats.METRONOME_S * SAMPLE_RATE_HZ


@pytest.mark.parametrize(("tempo_bpm", "first_s"), [(70, 0.73), (96, 0.4), (131, 0.11)])
def test_a_model_that_hears_strokes_finds_the_beats(tempo_bpm, first_s) -> None:
    """An embedding of the envelope fits a metronome best where its strokes fall on the music's."""
    wave, times_s = music(tempo_bpm, first_s)

    def embed(waves: np.ndarray) -> np.ndarray:
        short = np.abs(waves[:, : 470 * 160]).reshape(len(waves), 470, 160).max(axis=2)
        smooth = np.apply_along_axis(np.convolve, 1, short, np.bartlett(17), mode="same")
        return smooth - smooth.mean(axis=1, keepdims=True)

    metronomes = embed(np.stack([beats.metronome(bpm, stroke()) for bpm in beats.TEMPI_BPM]))
    found = beats.judge_track(
        wave, times_s, embed=embed, score=lambda a, b: a @ b.T, metronomes=metronomes
    )
    assert found["model"]["f1"] > 0.9
    assert found["flux"]["f1"] > 0.95
    assert found["fixed"]["f1"] < 0.6


def opened(strong: np.ndarray) -> np.ndarray:
    """The opening as a loop: the largest of the smallest values of all 3 x 3 squares around."""
    rows, columns = strong.shape
    smallest = {
        (r, c): strong[r - 1 : r + 2, c - 1 : c + 2].min()
        for r in range(1, rows - 1)
        for c in range(1, columns - 1)
    }
    around = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
    return np.array([
        [max(smallest.get((r + a, c + b), 0.0) for a, b in around) for c in range(columns)]
        for r in range(rows)
    ])  # fmt: skip


def test_onset_curve_equals_a_loop_and_drops_what_is_narrow() -> None:
    scores = np.zeros((9, 400))
    for step, height in enumerate((1.0, 2.5, 3.0)):  # strong for three steps, at seven tempi
        scores[1:8, 101 + step :] = height
    scores[2, 301:] += 3.0  # of one tempo alone
    rise = np.zeros_like(scores)
    for row in range(9):
        for step in range(1, 399):
            rise[row, step] = scores[row, step + 1] - scores[row, step - 1]
    strong = np.where(rise > rise.mean() + 3 * rise.std(), rise, 0)
    found = beats.onset_curve(scores)
    np.testing.assert_allclose(found, opened(strong).sum(axis=0))
    assert np.flatnonzero(found).tolist() == [100, 101, 102]


def test_rises_that_are_all_narrow_stand_as_they_are() -> None:
    scores = np.zeros((9, 400))
    scores[:, 101:] += 1.0  # the central difference rises at two steps, fewer than the opening's
    assert np.flatnonzero(beats.onset_curve(scores)).tolist() == [100, 101]


def test_silence_has_no_beats() -> None:
    assert beats.track_beats(np.zeros(500)).tolist() == []
    assert beats.judge(np.arange(1.0, 9.0), np.empty(0)).f1 == 0


def test_windows_start_every_hop_to_the_end() -> None:
    wave = np.arange(5 * SAMPLE_RATE_HZ, dtype=np.float32)
    found = beats.windows(wave)
    assert found.shape == (250, beats.WINDOW_SAMPLES)
    assert found[3, 0] == 3 * 320
    assert found[-1, -1] == 0


def test_prepared_songs_come_with_what_is_known_of_them(tmp_path, tiny_songs) -> None:
    paths = Paths(tmp_path / "data")
    tiny_songs(paths.prepare("bands"), source="bands", songs=3, seconds=6.0)
    found = pieces.of_source(paths, "bands")
    assert [piece.song for piece in found] == ["test-0", "test-1", "test-2"]
    assert found[0].beats_s[0] == 0
    assert found[0].chords == [(0.0, 6.0, "C:maj")]
    assert found[0].load().shape == (6 * SAMPLE_RATE_HZ,)
    with pytest.raises(ValueError, match=r"no test-\*\.parquet; run prepare"):
        pieces.of_source(paths, "chorales")
    withdrawn.add(tmp_path, "bands/test-1", withdrawn.Withdrawal("asked", "2026-01-01"))
    assert [piece.name for piece in pieces.of_source(paths, "bands")] == ["test-0", "test-2"]


def test_of_each_song_one_recording_is_tracked() -> None:
    listed = [pieces.Piece("made", name, name[0], lambda: None) for name in ("a1", "a2", "b1")]
    assert [piece.name for piece in pieces.one_a_song(listed, 2)] == ["a1", "b1"]
    assert [piece.name for piece in pieces.one_a_song(listed, 1)] == ["a1"]


def test_gtzan_is_found_by_name_or_named_as_missing(tmp_path) -> None:
    with pytest.raises(ValueError, match="no such folder; put GTZAN's sound and"):
        pieces.of_gtzan(tmp_path / "away")
    (tmp_path / "genres/blues").mkdir(parents=True)
    soundfile.write(tmp_path / "genres/blues/blues.00000.wav", np.zeros(22_050), 22_050)
    with pytest.raises(ValueError, match="no recording with beats; put"):
        pieces.of_gtzan(tmp_path)
    (tmp_path / "beats").mkdir()
    (tmp_path / "beats/gtzan_blues_00000.beats").write_text("0.25\t1\n0.75\t2\n")
    (piece,) = pieces.of_gtzan(tmp_path)
    assert (piece.name, piece.beats_s) == ("blues.00000", [0.25, 0.75])
    assert piece.load().shape == (SAMPLE_RATE_HZ,)
    (tmp_path / "beats/gtzan_blues_00000.beats").write_text("soon\n")
    with pytest.raises(ValueError, match="not a list of beats"):
        pieces.of_gtzan(tmp_path)
