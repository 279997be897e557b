"""What users' disks hold: each bad track a reason in the report, none a crash, none lost."""

from __future__ import annotations

import io
import json
import re
import struct

import miniatures
import numpy as np
import pytest
import soundfile
import yaml
from miniatures import encoded, sound, wav

from phalar import download, prepare
from phalar.sources import slug

GOOD = wav("good")


def changed(content, at, new):
    return content[:at] + new + content[at + len(new) :]


def constant(value):
    return encoded(np.full((16_000, 1), value), 16_000, "WAV", "FLOAT")


def with_sample(value, at=8_000):
    audio = sound("float")
    audio[at] = value
    return encoded(audio, 16_000, "WAV", "DOUBLE")


def huge_header():
    """A WAV whose header promises two gigabytes."""
    at = GOOD.index(b"data") + 4
    return changed(GOOD, at, struct.pack("<I", 2_000_000_000))


def half(kind):
    whole = encoded(sound("half"), 16_000, kind)
    return whole[: len(whole) // 2]


BAD = {
    # What is wrong: (files of the track besides a good stem, what the reason says)
    "an empty file": ({"x.wav": b""}, "cannot be decoded"),
    "a web page": ({"x.wav": b"<html>login</html>"}, "cannot be decoded"),
    "random bytes": ({"x.flac": np.random.default_rng(0).bytes(9999)}, "cannot be decoded"),
    "zeros": ({"x.wav": bytes(10_000)}, "cannot be decoded"),
    "a header alone": ({"x.wav": GOOD[:44]}, "holds 0 of the|no samples"),
    "half a header": ({"x.wav": GOOD[:20]}, "cannot be decoded|holds|no samples"),
    "no samples": ({"x.wav": encoded(np.zeros((0, 1)), 16_000)}, "holds no samples"),
    "a cut wav": ({"x.wav": half("WAV")}, "holds .* it is cut"),
    "a cut aiff": ({"x.aiff": half("AIFF")}, "holds .* it is cut"),
    "a cut flac": ({"x.flac": half("FLAC")}, "cannot be decoded|ends after"),
    "a cut mp3": ({"x.mp3": half("MP3")}, "ends after|lasts"),
    "a cut ogg": ({"x.ogg": half("OGG")}, "its end is missing; it is cut"),
    "a flac with a hole": (
        {"x.flac": changed(encoded(sound("f"), 16_000, "FLAC"), 9_000, bytes(2_000))},
        "cannot be decoded|ends after",
    ),
    "a header that promises too much": ({"x.wav": huge_header()}, "holds .* it is cut"),
    "not a number": ({"x.wav": with_sample(np.nan)}, "not finite"),
    "infinity": ({"x.wav": with_sample(np.inf)}, "not finite"),
    "minus infinity at the end": ({"x.wav": with_sample(-np.inf, -1)}, "not finite"),
    "a rate of 0 Hz": ({"x.wav": changed(GOOD, 24, struct.pack("<I", 0))}, "decoded|0 Hz"),
    "a rate of 1 Hz": ({"x.wav": changed(GOOD, 24, struct.pack("<I", 1))}, "its header says 1 Hz"),
    "a rate of 3 MHz": (
        {"x.wav": changed(GOOD, 24, struct.pack("<I", 3_000_000))},
        "its header says 3000000 Hz, must be",
    ),
    "a rate that is not that of the sound": (
        {"x.wav": changed(GOOD, 24, struct.pack("<I", 48_000))},
        r"lasts 0.33 s, the longest stem 1.00 s",
    ),
    "no channels": ({"x.wav": changed(GOOD, 22, struct.pack("<H", 0))}, "cannot be decoded"),
    "a stem much shorter": ({"x.wav": wav("short", 0.3)}, "lasts 0.30 s, the longest stem 1.00"),
    "a stem much longer": ({"x.wav": wav("long", 9.0)}, "good.wav: lasts 1.00 s, .* 9.00 s"),
    "a stem of one sample": ({"x.wav": wav("tick", 1 / 16_000)}, "lasts 0.00 s"),
    "silence beside one stem": ({"x.wav": constant(0.0)}, "1 audible stem of 2, a pair needs 2"),
    "sound below hearing": ({"x.wav": constant(1e-5)}, "1 audible stem of 2"),
    "one stem": ({}, "1 stems, must be 2 to 64"),
    "too many stems": (
        {f"{n}.wav": GOOD for n in range(64)},
        "65 stems, must be 2 to 64; complete or join them",
    ),
    "a kind that cannot be read": ({"x.m4a": b"\0\0\0\x20ftypM4A "}, "cannot be decoded"),
    "a midi file called wav": ({"x.wav": b"MThd\0\0\0\x06\0\x01"}, "cannot be decoded"),
    "a link file of another system": ({"x.wav": b"IntxLNK\x01/a"}, "cannot be decoded"),
    "a stem that is a text": ({"x.wav": "räuber".encode("utf-16")}, "cannot be decoded"),
    "an archive called flac": ({"x.flac": miniatures.zipped({"a": GOOD})}, "cannot be decoded"),
}

ALONE = {
    # Nothing good beside it.
    "silence": ({"x.wav": constant(0.0), "y.wav": constant(0.0)}, "all 2 stems are silent"),
    "no sound files": ({"notes.txt": b"hello"}, "1 files, none with sound"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report on a folder of all bad tracks and three good ones."""
    root = tmp_path_factory.mktemp("bad")
    about = {}
    for number, split in enumerate(("train", "valid", "test")):
        write(root, f"good {number}", {"a.wav": wav((number, "a")), "b.wav": wav((number, "b"))})
        about[f"good {number}"] = {"split": split}
    for name, (files, _) in BAD.items():
        write(root, name, files | {"good.wav": GOOD})
    for name, (files, _) in ALONE.items():
        write(root, name, files)
    (root / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    settings = miniatures.settings(root, "folder", download={"path": "mine"}, bad=1.0)
    download.run(settings, "folder")
    prepare.run(settings, "folder")
    return json.loads((settings.paths.prepare("folder") / "report.json").read_text())


def write(root, track, files):
    folder = root / "mine" / track
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_found_is_kept_and_dropped(report):
    assert len(BAD) + len(ALONE) >= 30
    assert report["found"] == len(BAD) + len(ALONE) + 3
    assert report["found"] == report["kept"] + len(report["dropped"])
    assert report["kept"] == 3


@pytest.mark.parametrize("name", [*BAD, *ALONE])
def test_each_bad_track_has_its_reason(report, name):
    (drop,) = (drop for drop in report["dropped"] if drop["track"] == slug(name))
    _, reason = (BAD | ALONE)[name]
    assert drop["bad"]
    assert re.search(reason, drop["reason"]), drop["reason"]
    assert "\n" not in drop["reason"]


def test_too_many_of_them_are_an_error(tmp_path):
    write(tmp_path, "good", {"a.wav": wav("a"), "b.wav": wav("b")})
    write(tmp_path, "bad", {"a.wav": b""})
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"}, bad=0.4)
    download.run(settings, "folder")
    with pytest.raises(ValueError, match=r"1 of 2 tracks are bad, prepare.max_bad_fraction is 0.4"):
        prepare.run(settings, "folder")


def test_a_file_that_changed_since_the_download_is_a_bad_track(tmp_path):
    for number in range(4):
        write(tmp_path, f"{number}", {"a.wav": wav((number, "a")), "b.wav": wav((number, "b"))})
    about = {str(n): {"split": s} for n, s in enumerate(("train", "valid", "test", "test"))}
    (tmp_path / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    download.run(settings, "folder")
    (tmp_path / "mine" / "3" / "a.wav").write_bytes(wav("another"))
    (drop,) = prepare.run(settings, "folder").dropped
    assert re.search("other bytes than the receipt says; run the download stage", drop.reason)


def test_a_link_to_nothing_is_named(tmp_path):
    write(tmp_path, "a", {"x.wav": GOOD})
    (tmp_path / "mine" / "a" / "y.wav").symlink_to("nowhere")
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    with pytest.raises(ValueError, match=r"y.wav: a link to nothing or no file; mend or remove it"):
        download.run(settings, "folder")


def test_sound_beyond_full_scale_lowers_the_whole_track(tmp_path):
    loud = io.BytesIO()
    soundfile.write(loud, 20 * sound("loud"), 16_000, format="WAV", subtype="FLOAT")
    for split in ("train", "valid", "test"):
        write(tmp_path, split, {"a.wav": loud.getvalue(), "b.wav": wav(split)})
    about = {split: {"split": split} for split in ("train", "valid", "test")}
    (tmp_path / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    download.run(settings, "folder")
    assert prepare.run(settings, "folder").kept == 3
    findings = json.loads((settings.paths.prepare("folder") / "findings.json").read_text())
    assert "its peak was 4." in findings["notes"]["train"][0]
