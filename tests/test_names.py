"""What paths tell of sounds."""

import pytest

from phalar.search.names import WORDS, read
from phalar.sources import INSTRUMENTS


@pytest.mark.parametrize(
    ("path", "instrument", "tempo_bpm", "key"),
    [
        ("Drums/Loop 120bpm.wav", "drums", 120, None),
        ("song/03-electric_bass_finger.flac", "bass", None, None),
        ("Bass/kick_90 BPM.wav", "drums", 90, None),
        ("GTR_Clean_F#min_84.5bpm.aif", "guitar", 84.5, "F#m"),
        ("Pad-Warm-Bb.wav", "pad", None, "Bb"),
        ("LeadVox_C.wav", "voice", None, "C"),
        ("A Rainy Day.wav", None, None, None),
        ("x/y/z.wav", None, None, None),
    ],
)
def test_paths(path, instrument, tempo_bpm, key) -> None:
    told = read(path)
    assert (told.instrument, told.tempo_bpm, told.key) == (instrument, tempo_bpm, key)


def test_families_are_those_of_the_sources_and_no_word_means_two() -> None:
    assert WORDS.keys() <= set(INSTRUMENTS)
    words = [word for line in WORDS.values() for word in line.split()]
    assert len(words) == len(set(words))
