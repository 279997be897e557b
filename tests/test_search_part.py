"""A part of a file is that part of the whole, whatever its format, rate and place."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from phalar import audio
from phalar.search.part import read_part


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("part")
    rng = np.random.default_rng(1)
    for name, rate_hz in (("a.wav", 44_100), ("a.flac", 48_000), ("a.ogg", 44_100),
                          ("a.mp3", 44_100), ("a.aiff", 22_050), ("b.wav", 16_000)):  # fmt: skip
        noise = np.convolve(rng.normal(0, 0.1, 6 * rate_hz), np.hanning(24) / 12, "same")
        soundfile.write(root / name, np.stack([noise, 0.5 * noise], 1), rate_hz)
    return root


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "b.wav"])
def test_a_part_is_that_of_the_whole(sounds, name) -> None:
    whole = audio.load_mono(sounds / name)
    samples = 12_000
    padded = np.pad(whole, (4_000, 80_000))
    for start in (0, 15_337, 32_000, 80_000, 95_123, -4_000, 120_000):
        part = read_part(sounds / name, len(whole) / audio.SAMPLE_RATE_HZ, start, samples)
        expected = padded[4_000 + start :][:samples]
        # The very end of a file may be short of some samples.
        inner = slice(0, max(0, min(samples, len(whole) - start - 64)))
        assert part.shape == (samples,)
        np.testing.assert_allclose(part[inner], expected[inner], atol=1e-4)
        assert not part[max(0, len(whole) - start) :].any()
