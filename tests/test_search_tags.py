"""Tempo and key that files say of themselves: tags as others write them, headers of loops."""

import struct

import mutagen
import numpy as np
import pytest
import soundfile
from mutagen.id3 import TBPM, TKEY

from phalar.search import known, tags
from phalar.search.estimate import NAMES
from phalar.search.store import Entry
from phalar.search.tags import Tagged

RATE_HZ = 16_000


def written(path, **tagged):
    """A second of noise, tagged as its format does it."""
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, RATE_HZ), RATE_HZ)
    if tagged:
        file = mutagen.File(path)
        if file.tags is None:
            file.add_tags()
        if path.suffix in (".mp3", ".wav", ".aiff"):
            frames = {"bpm": TBPM, "key": TKEY}
            for name, value in tagged.items():
                file.tags.add(frames[name](encoding=3, text=[value]))
        else:
            names = {"bpm": "BPM", "key": "INITIALKEY"}
            file.tags.update({names[name]: [value] for name, value in tagged.items()})
        file.save()
    return path


def with_acid(path, *, flags=0, tempo_bpm=120.0, length=24, cut=0):
    """Add the chunk of a loop to a WAV file, after its sound."""
    body = struct.pack("<IHHfIHHf", flags, 60, 0x8000, 0.0, 8, 4, 4, tempo_bpm)[:length]
    whole = path.read_bytes() + b"acid" + struct.pack("<I", length) + body
    whole = whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    path.write_bytes(whole[: len(whole) - cut])
    return path


@pytest.mark.parametrize("suffix", ["mp3", "wav", "aiff", "flac", "ogg"])
def test_tags_of_every_format(tmp_path, suffix) -> None:
    plain = written(tmp_path / f"plain.{suffix}")
    assert tags.read(plain) == Tagged()
    both = written(tmp_path / f"both.{suffix}", bpm="97.5", key="F#m")
    assert tags.read(both) == Tagged(97.5, "F#m")
    assert len(soundfile.read(both)[0]) == len(soundfile.read(plain)[0])


@pytest.mark.parametrize("text", ["0", "", "fast", "1e999", "nan", "9999", "-120"])
def test_a_tempo_that_cannot_be_meant_says_nothing(tmp_path, text) -> None:
    assert tags.read(written(tmp_path / "stem.flac", bpm=text, key="Am")) == Tagged(None, "Am")


def test_the_tempo_in_the_header_of_a_loop(tmp_path) -> None:
    loop = with_acid(written(tmp_path / "loop.wav"), tempo_bpm=174.0)
    assert tags.read(loop) == Tagged(174.0, None)
    assert tags.read(with_acid(written(tmp_path / "hit.wav"), flags=1)) == Tagged()
    assert tags.read(with_acid(written(tmp_path / "unset.wav"), tempo_bpm=0.0)) == Tagged()
    # A tag goes before: it is what people edit.
    assert tags.read(with_acid(written(tmp_path / "both.wav", bpm="87"))).tempo_bpm == 87


@pytest.mark.parametrize("damage", [{"length": 8}, {"cut": 10}, {"cut": 30}])
def test_a_damaged_header_says_nothing(tmp_path, damage) -> None:
    assert tags.read(with_acid(written(tmp_path / "loop.wav"), **damage)) == Tagged()


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\xff\xff\xff\xffWAVE", b"ID3\x04\0\0\x7f\x7f"]
)
def test_what_is_no_sound_file_says_nothing(tmp_path, content) -> None:
    path = tmp_path / "stem.wav"
    path.write_bytes(content)
    assert tags.read(path) == Tagged()
    assert tags.read(tmp_path / "gone.wav") == Tagged()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *[("Am", "Am"), ("A minor", "Am"), ("f#", "F#"), ("F♯min", "F#m"), ("Bb", "Bb")],
        *[("bbm", "Bbm"), ("C Major", "C"), ("CM", "C"), (" D ", "D"), ("E♭ maj", "Eb")],
        *[("8B", "C"), ("8A", "Am"), ("9b", "G"), ("7B", "F"), ("1A", "G#m"), ("12A", "C#m")],
        *[("", None), ("o", None), ("13A", None), ("0A", None), ("H", None), ("All", None)],
    ],
)
def test_keys_as_programs_write_them(text, key) -> None:
    assert tags.key_of(text) == key


def test_the_wheel_holds_every_key_once() -> None:
    found = {tags.key_of(f"{hour}{side}") for hour in range(1, 13) for side in "AB"}
    assert found == {*NAMES, *(f"{name}m" for name in NAMES)}


def test_a_name_goes_before_tags_and_tags_before_what_is_heard(tmp_path) -> None:
    sure = {"tempo": 121.4, "key": "Am"}
    tagged = written(tmp_path / "tagged.flac", bpm="60")
    assert known.told("bass 90bpm.wav", tagged, sure) == {
        "instrument": "bass", "tempo_bpm": 90, "tempo_from": "name", "key": "Am",
        "key_from": "sound",
    }  # fmt: skip
    told = known.told("bass.wav", tagged, sure)
    assert (told["tempo_bpm"], told["tempo_from"], told["key_from"]) == (60, "tags", "sound")
    plain = written(tmp_path / "plain.flac")
    told = known.told("drums.wav", plain, sure)
    assert (told["key"], told["tempo_from"]) == (None, "sound")
    assert known.told("bass.wav", plain, {})["tempo_from"] is None


def test_a_copy_knows_what_was_heard_but_not_what_another_name_said() -> None:
    entry = Entry("a 90bpm.wav", "0", 1, 1, 5.0, 0, 1, (), "bass", 90, "name", "Am", "sound")
    assert known.heard_of(entry) == {"key": "Am"}
