"""The moment of a mix: files that start together stay together, and of long ones little is read."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from phalar import audio
from phalar.search.moment import Moment, read_moment, sum_moments
from phalar.search.windows import Grid

RATE_HZ = 16_000
GRID = Grid(window_s=2.0, hop_s=1.0)


def click(length_s: float, *at_s: float) -> np.ndarray:
    sound = np.zeros(round(length_s * RATE_HZ), np.float32)
    sound[[round(at * RATE_HZ) for at in at_s]] = 0.5
    return sound


def clicks(mix) -> list[float]:
    """Where in the moment something is heard, seconds."""
    return [round(float(place) / RATE_HZ, 4) for place in np.flatnonzero(np.abs(mix.sound) > 0.1)]


def test_sounds_of_unequal_length_stay_together() -> None:
    long, short = click(12, 5.0, 6.5), click(5.5, 5.25)
    for sounds in ([("long", long), ("short", short)], [("short", short), ("long", long)]):
        assert clicks(sum_moments(sounds, Moment(4.75), GRID)) == [0.25, 0.5, 1.75]
    # Beyond the end of the shorter, the longer goes on.
    later = sum_moments([("short", short), ("long", long)], Moment(6.0), GRID)
    assert clicks(later) == [0.5]
    assert len(later.around) == (12 - 5) * RATE_HZ - 3 * RATE_HZ


def test_a_loop_goes_on_beside_a_longer_sound() -> None:
    loop, long = click(0.75, 0.25), click(9, 4.2)
    found = clicks(sum_moments([("loop", loop), ("long", long)], Moment(3.5), GRID))
    assert found == [0.5, 0.7, 1.25]
    both = sum_moments([("loop", loop), ("other", click(1.0, 0.5))], Moment(0.0), GRID)
    assert clicks(both) == [0.25, 0.5, 1.0, 1.5, 1.75]
    # There are sounds on both sides of it.
    assert (both.before, len(both.around)) == (RATE_HZ, 4 * RATE_HZ)


def test_a_moment_beyond_the_end_starts_sooner_and_says_so(caplog) -> None:
    mix = sum_moments([("mix.wav", click(9, 8.0))], Moment(8.5), GRID)
    assert clicks(mix) == [1.0]
    assert "ends at 9.0 s, so the moment is taken from 7.00 s, not from 8.5 s" in caplog.text
    with pytest.raises(ValueError, match=r"mix.wav: ends at 9.0 s, before the moment at 9 s"):
        sum_moments([("a.wav", click(3, 1.0)), ("mix.wav", click(9, 8.0))], Moment(9), GRID)
    with pytest.raises(ValueError, match=r"hit.wav: 0.40 s long, must be 0.5 s or more"):
        sum_moments([("hit.wav", click(0.4, 0.1)), ("mix.wav", click(9, 8.0))], Moment(1), GRID)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_of_a_long_file_only_the_moment_is_read(tmp_path, suffix) -> None:
    rng = np.random.default_rng(1)
    sound = np.convolve(rng.normal(0, 0.1, 150 * 44_100), np.hanning(24) / 12, "same")
    long, short = tmp_path / f"long.{suffix}", tmp_path / "short.wav"
    soundfile.write(long, np.stack([sound, sound], 1), 44_100)
    soundfile.write(short, sound[: 5 * 44_100], 44_100)
    whole = audio.load_mono(long)
    tracemalloc.start()
    mix = read_moment([long, short], Moment(140.123, 3.0), GRID)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = whole[round(140.123 * RATE_HZ) :][: 3 * RATE_HZ]
    np.testing.assert_allclose(mix.sound, expected, atol=1e-3)
    assert most < 150 * 44_100 * 2 * 4 / 3
