"""Published data sets, as miniatures: from the web, or the user's disk, to prepared parquet."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import miniatures
import numpy as np
import pytest
import soundfile
import soxr
import web
import yaml

from phalar import download, params, prepare, tracks
from phalar.sources import cocochorales, musdb18hq, slakh2100

SONGS = [(f"artist {n // 2}", f"song {n}") for n in range(12)]


@pytest.fixture
def site():
    with web.serve() as served:
        yield served


def publish(site, monkeypatch, module, content):
    """Serve an archive in the place of the real one."""
    site.files[module.ARCHIVE.name] = content
    there = replace(
        module.ARCHIVE,
        url=site.url + module.ARCHIVE.name,
        size_bytes=len(content),
        md5=None,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setattr(module, "ARCHIVE", there)


def rows(settings, source):
    """Index of every prepared track by name."""
    folder = settings.paths.prepare(source)
    return {
        index.track: index for split in tracks.SPLITS for index in tracks.read_index(folder, split)
    }


def test_slakh2100(site, monkeypatch, tmp_path):
    content = miniatures.slakh2100({"train": 2, "validation": 1, "test": 1})
    publish(site, monkeypatch, slakh2100, content)
    settings = miniatures.settings(tmp_path, "slakh2100")
    assert download.run(settings, "slakh2100").files == 4 * (3 + 1)
    receipt = download.read_receipt(settings.paths.download("slakh2100"))
    (archive,) = receipt["archives"]
    assert archive["sha256"] == hashlib.sha256(content).hexdigest()
    assert {file["licence"] for file in receipt["files"]} == {"CC-BY-4.0"}
    assert not list(settings.paths.download("slakh2100").rglob("mix.wav"))
    assert not download.run(settings, "slakh2100").fetched
    summary = prepare.run(settings, "slakh2100")
    assert (summary.found, summary.kept) == (4, 4)
    found = rows(settings, "slakh2100")
    assert {name: index.split for name, index in found.items()} == {
        "Track00001": "train",
        "Track00002": "train",
        "Track00003": "valid",
        "Track00004": "test",
    }
    index = found["Track00003"]
    # Not the one that was never rendered.
    assert index.instruments == ["bass", "drums", "piano"]
    assert index.song == "uuid3"
    want = miniatures.sound(("slakh2100_redux_16k/validation/Track00003", 1))[:, 0]
    np.testing.assert_allclose(tracks.read_stems(index)[1], want, atol=2e-4)


def test_cocochorales(site, monkeypatch, tmp_path):
    for place, name in enumerate(("train/1", "train/2", "valid/1", "test/1")):
        content = miniatures.cocochorales({f"string_track{place:06d}": "violin viola cello"})
        site.files[f"{name}.tar.bz2"] = content
        monkeypatch.setitem(cocochorales.MD5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(cocochorales, "URL", site.url)
    chosen = {"train": [1, 2], "valid": [1], "test": [1]}
    settings = miniatures.settings(tmp_path, "cocochorales", download=chosen)
    assert download.run(settings, "cocochorales").files == 4 * 3
    assert prepare.run(settings, "cocochorales").kept == 4
    index = rows(settings, "cocochorales")["string_track000002"]
    assert (index.split, index.stems[1], index.instruments[1]) == ("valid", "01-viola", "strings")

    more = chosen | {"train": [1, 2, 5]}
    site.files["train/5.tar.bz2"] = miniatures.cocochorales({"brass_track000009": "tuba trombone"})
    asked = len(site.asked)
    again = miniatures.settings(tmp_path, "cocochorales", download=more)
    assert download.run(again, "cocochorales").files == 4 * 3 + 2
    assert [path for path, _ in site.asked[asked:]] == ["train/5.tar.bz2"]


def test_musdb18hq(site, monkeypatch, tmp_path):
    held_back = "Leaf - Summerghost"
    songs = {"train": ["A - One", held_back], "test": ["B & Ö - Two (live)"]}
    publish(site, monkeypatch, musdb18hq, miniatures.musdb18hq(songs))
    settings = miniatures.settings(tmp_path, "musdb18hq")
    download.run(settings, "musdb18hq")
    summary = prepare.run(settings, "musdb18hq")
    assert {split: found["tracks"] for split, found in summary.splits.items()} == {
        "train": 1,
        "valid": 1,
        "test": 1,
    }
    (index,) = (i for i in rows(settings, "musdb18hq").values() if i.split == "test")
    assert index.instruments == ["bass", "drums", "other", "voice"]
    stereo = miniatures.sound(("B & Ö - Two (live)", "drums"), 0.5, 44_100, 2)
    want = soxr.resample(stereo.mean(axis=1), 44_100, 16_000, quality="HQ")
    np.testing.assert_allclose(tracks.read_stems(index)[1], want, atol=3e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_moisesdb(tmp_path, packed):
    miniatures.moisesdb(tmp_path / "mine", SONGS)
    if packed:
        shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "mine")
    where = {"path": "mine.zip" if packed else "mine"}
    settings = miniatures.settings(
        tmp_path, "moisesdb", download=where, prepare={"split": "artist"}
    )
    assert download.run(settings, "moisesdb").files == len(SONGS) * 5
    summary = prepare.run(settings, "moisesdb")
    assert (summary.found, summary.kept) == (12, 12)
    found = rows(settings, "moisesdb").values()
    assert len({(index.song.split(" - ")[0], index.split) for index in found}) == 6
    index = next(i for i in found if i.song == "artist 0 - song 0")
    assert index.instruments == ["voice", "bass", "drums"]
    parts = [miniatures.sound(("song 0", "vocals", n), 0.5, 44_100, 2).mean(axis=1) for n in (0, 1)]
    want = soxr.resample(np.sum(parts, axis=0), 44_100, 16_000, quality="HQ")
    stems = tracks.read_stems(index)
    np.testing.assert_allclose(stems[0], want, atol=3e-4)
    assert not stems[2, -100:].any(), "a shorter stem ends in silence"


def test_the_paper_s_lists_of_moisesdb(tmp_path):
    miniatures.moisesdb(tmp_path / "mine", SONGS[:10])
    settings = miniatures.settings(
        tmp_path, "moisesdb", download={"path": "mine"}, prepare={"split": "paper"}
    )
    download.run(settings, "moisesdb")
    splits = prepare.run(settings, "moisesdb").splits
    assert [splits[split]["tracks"] for split in tracks.SPLITS] == [8, 1, 1]


def test_without_moisesdb_the_error_says_where_to_get_it_and_where_to_put_it(tmp_path):
    settings = miniatures.settings(
        tmp_path, "moisesdb", download={"path": "x.zip"}, prepare={"split": "paper"}
    )
    with pytest.raises(OSError, match=r"nothing is at \S*/x.zip; ask for MoisesDB at https://mus"):
        download.run(settings, "moisesdb")


def test_damaged_pieces_alone_are_fetched_anew(site, monkeypatch, tmp_path):
    for name in ("train/1", "valid/1", "test/1"):
        site.files[f"{name}.tar.bz2"] = miniatures.cocochorales(
            {f"{name[:5]}_track000001": "violin viola"}
        )
        monkeypatch.setitem(cocochorales.MD5, name, None)
    monkeypatch.setattr(cocochorales, "URL", site.url)
    chosen = {"train": [1], "valid": [1], "test": [1]}
    settings = miniatures.settings(tmp_path, "cocochorales", download=chosen)
    download.run(settings, "cocochorales")
    folder = settings.paths.download("cocochorales")
    before = (folder / "receipt.json").read_bytes()
    damaged = next((folder / "valid").rglob("*.wav"))
    damaged.write_bytes(b"x")
    site.asked.clear()
    assert download.run(settings, "cocochorales").fetched
    assert site.asked == [("valid/1.tar.bz2", None)]
    assert (folder / "receipt.json").read_bytes() == before
    assert not folder.with_name("cocochorales.part").exists()

    damaged.write_bytes(b"x")
    site.files["valid/1.tar.bz2"] = miniatures.cocochorales({"valid_track000009": "violin viola"})
    with pytest.raises(OSError, match=r"sha256 is \w+, must be \w+"):
        download.run(settings, "cocochorales")


def test_one_archive_that_fails_stops_the_others_and_is_named(site, monkeypatch, tmp_path):
    site.files["valid/1.tar.bz2"] = miniatures.cocochorales({"a_track000001": "violin viola"})
    monkeypatch.setattr(cocochorales, "URL", site.url)
    chosen = {"train": [5], "valid": [1], "test": [5]}
    settings = miniatures.settings(tmp_path, "cocochorales", download=chosen)
    with pytest.raises(OSError, match=r"train/5.tar.bz2: the server says 404"):
        download.run(settings, "cocochorales")
    assert not settings.paths.download("cocochorales").exists()


def test_an_archive_of_something_else_is_refused(site, monkeypatch, tmp_path):
    publish(site, monkeypatch, musdb18hq, miniatures.zipped({"readme.txt": b""}))
    settings = miniatures.settings(tmp_path, "musdb18hq")
    with pytest.raises(ValueError, match="holds no file of this source; get the right archive"):
        download.run(settings, "musdb18hq")


def test_sources_need_no_parameters_unless_they_are_used(tmp_path):
    settings = miniatures.settings(tmp_path, "slakh2100")
    assert settings.download.cocochorales is None
    with pytest.raises(ValueError, match=r"prepare.slakh2100 is missing, 'slakh2100' is in source"):
        miniatures_without_section(tmp_path)


def miniatures_without_section(root):
    raw = yaml.safe_load((root / "params.yaml").read_text())
    del raw["prepare"]["slakh2100"]
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    params.load(root / "params.yaml")


def test_the_parameters_that_the_readme_gives_are_right(tmp_path):
    """... and a part of them is enough for those who want a part."""
    root = miniatures.ROOT
    said = (root / "README.md").read_text().partition("## Real data sets")[2]
    said = yaml.safe_load(said.partition("```yaml\n")[2].partition("```")[0])
    raw = yaml.safe_load((root / "params.yaml").read_text())
    for stage in ("download", "prepare", "render"):
        raw[stage] |= said[stage]
    raw["sources"] = said["sources"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    loaded = params.load(tmp_path / "params.yaml")
    assert len(cocochorales.pieces(loaded.download.cocochorales, tmp_path)) == 20
    assert {a.name for a in cocochorales.pieces(loaded.download.cocochorales, tmp_path)} == {
        f"{name}.tar.bz2" for name in cocochorales.MD5
    }


# ---- the user's own folder ---------------------------------------------------------------------

KINDS = [
    ("WAV", "PCM_24", 48_000, 2),
    ("AIFF", None, 96_000, 1),
    ("FLAC", None, 22_050, 2),
    ("MP3", None, 44_100, 2),
    ("OGG", None, 44_100, 1),
]


def test_a_folder_of_three_tracks_of_all_kinds_becomes_a_source(tmp_path):
    about = {}
    for number, split in enumerate(tracks.SPLITS):
        name = f"My söng {number}"
        about[name] = {"artist": "me", "split": split, "licence": "CC0-1.0"}
        (tmp_path / "mine" / name).mkdir(parents=True)
        for kind, subtype, rate_hz, channels in KINDS:
            audio = miniatures.sound((number, kind), 1.0, rate_hz, channels)
            path = tmp_path / "mine" / name / f"{kind} bass.{kind.lower()}"
            soundfile.write(path, audio, rate_hz, format=kind, subtype=subtype)
        (tmp_path / "mine" / name / "cover.jpg").write_bytes(b"jpg")
        (tmp_path / "mine" / name / ".DS_Store").write_bytes(b"mac")
    about["My söng 0"]["instruments"] = {"WAV bass": "piano"}
    (tmp_path / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about, allow_unicode=True))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    download.run(settings, "folder")
    summary = prepare.run(settings, "folder")
    assert (summary.found, summary.kept) == (3, 3)
    found = {index.song: index for index in rows(settings, "folder").values()}
    index = found["My söng 0"]
    assert (index.split, index.licence) == ("train", "CC0-1.0")
    assert sorted(index.instruments) == ["bass"] * 4 + ["piano"]
    stems = dict(zip(index.stems, tracks.read_stems(index), strict=True))
    for kind, _, rate_hz, channels in KINDS:
        (stem,) = (sound for name, sound in stems.items() if kind in name)
        want = miniatures.sound((0, kind), 1.0, rate_hz, channels).mean(axis=1)
        want = soxr.resample(want, rate_hz, 16_000, quality="HQ")
        # Those that lose something lose the top of a noise, but nothing of its place in time.
        match = np.corrcoef(stem[: len(want)], want)[0, 1]
        assert match > (0.9999 if kind in ("WAV", "AIFF", "FLAC") else 0.9), kind
    assert (tmp_path / "mine" / "My söng 0" / "cover.jpg").exists()


def test_a_table_of_tracks_that_names_no_track_is_refused(tmp_path):
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "x.wav").write_bytes(miniatures.wav(1))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    for text, message in (
        ("b: {split: test}", "no track 'b' in the folder"),
        ("a: {split: tset}", "split = 'tset': Input should be"),
        ("a: {key: 1}", "key = 1: Extra inputs"),
        ("- a", "not a table of tracks"),
        ("{", "not a table of tracks"),
    ):
        (tmp_path / "mine" / "tracks.yaml").write_text(text)
        download.run(settings, "folder")
        with pytest.raises(ValueError, match=f"tracks.yaml: .*{message}"):
            prepare.run(settings, "folder")


def test_a_sound_file_beside_the_tracks_is_named(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loose.wav").write_bytes(miniatures.wav(1))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    with pytest.raises(OSError, match=r"loose.wav lies beside the tracks; put it into the folder"):
        download.run(settings, "folder")


def test_near_duplicates_across_splits_are_found_by_their_sound(tmp_path):
    splits = {"original": "train", "other": "valid", "copy": "test"}
    for name in splits:
        (tmp_path / "mine" / name).mkdir(parents=True)
        for stem in ("one", "two"):
            tune = melody("other" if name == "other" else "original", stem)
            late = 0.5 * tune[8_000:] if name == "copy" else tune
            kind = "ogg" if name == "copy" else "wav"
            soundfile.write(tmp_path / "mine" / name / f"{stem}.{kind}", late, 16_000)
    about = {name: {"split": split} for name, split in splits.items()}
    (tmp_path / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    settings = miniatures.settings(tmp_path, "folder", download={"path": "mine"})
    download.run(settings, "folder")
    prepare.run(settings, "folder")
    findings = json.loads((settings.paths.prepare("folder") / "findings.json").read_text())
    (found,) = findings["near_duplicates"]
    assert sorted(found["tracks"]) == ["copy", "original"]
    assert sorted(found["splits"]) == ["test", "train"]


def melody(song, stem, seconds=20.0):
    """Tones that fade, at random times and pitches."""
    rng = np.random.default_rng(list(f"{song}{stem}".encode()))
    total = np.zeros(round(seconds * 16_000))
    for start in np.sort(rng.integers(0, len(total) - 8_000, 60)):
        time_s = np.arange(8_000) / 16_000
        tone = np.sin(2 * np.pi * 110 * 2 ** (rng.integers(0, 60) / 12) * time_s)
        total[start : start + 8_000] += 0.05 * tone * np.exp(-4 * time_s)
    return total
