"""Prepared tracks: what is written is read back, and what breaks a rule is named."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny_render import checksums, noise_track

from phalar import audio, tracks


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three training tracks of 3, 2 and 4 stems in two files."""
    made = [noise_track(f"track-{stems}", stems=stems, seconds=stems / 2) for stems in (3, 2, 4)]
    tracks.write_tables(tmp_path / "train-00000.parquet", map(tracks.to_table, made[:2]))
    tracks.write_tables(tmp_path / "train-00001.parquet", map(tracks.to_table, made[2:]))
    return tmp_path


def test_hugging_face_datasets_reads_it_as_sound(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = {"train": str(folder / "train-*.parquet")}
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    found = found["train"]
    assert found.features["audio"] == datasets.Audio(sampling_rate=audio.SAMPLE_RATE_HZ)
    assert found.column_names == tracks.SCHEMA.names
    # Its own decoder is another package; the bytes are what any decoder of FLAC reads.
    rows = iter(found.cast_column("audio", datasets.Audio(decode=False)))
    for entry in tracks.read_index(folder, "train"):
        for name, stem in zip(entry.stems, tracks.read_stems(entry), strict=True):
            row = next(rows)
            assert (row["track"], row["stem"], row["samples"]) == (entry.track, name, len(stem))
            sound, rate_hz = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            assert rate_hz == audio.SAMPLE_RATE_HZ
            assert np.array_equal(sound, stem)
    assert next(rows, None) is None


def test_what_is_written_is_read_back(folder):
    index = tracks.read_index(folder, "train")
    assert [entry.track for entry in index] == ["track-3", "track-2", "track-4"]
    for entry in index:
        made = noise_track(entry.track, stems=len(entry.stems), seconds=len(entry.stems) / 2)
        assert (entry.source, entry.song, entry.split) == ("bands", made.song, "train")
        assert (entry.licence, entry.tempo_bpm) == (made.licence, made.tempo_bpm)
        assert entry.source_files == made.source_files
        assert entry.stems == [stem.name for stem in made.stems]
        assert entry.instruments == [stem.instrument for stem in made.stems]
        sound = tracks.read_stems(entry)
        wanted = np.stack([stem.audio for stem in made.stems])
        assert sound.shape == (len(made.stems), entry.samples)
        # Half a step of 16 bit, and the 32767 / 32768 between what encoders call full scale.
        assert np.abs(sound - wanted).max() <= 1 / 32768
        levels_db = np.stack([audio.levels_db(stem.audio) for stem in made.stems])
        assert np.array_equal(entry.levels_db, levels_db)


def test_a_row_group_is_a_track_and_a_row_a_stem(folder):
    with pq.ParquetFile(folder / "train-00000.parquet") as file:
        assert file.num_row_groups == 2
        groups = [file.read_row_group(number) for number in range(2)]
    assert [group.num_rows for group in groups] == [3, 2]
    assert groups[0].schema.equals(tracks.SCHEMA)
    for group in groups:
        assert len(set(group["track"].to_pylist())) == 1
        for row in group.to_pylist():
            sound, rate_hz = audio.read_audio(row["audio"]["bytes"])
            assert (sound.shape, rate_hz) == ((1, row["samples"]), audio.SAMPLE_RATE_HZ)
            assert row["peak"] == pytest.approx(np.abs(sound).max(), abs=1 / 32768)


def test_one_input_gives_one_output_and_nothing_is_left_aside(folder, tmp_path):
    before = checksums(folder)
    made = [noise_track(f"track-{stems}", stems=stems, seconds=stems / 2) for stems in (3, 2)]
    count = tracks.write_tables(folder / "train-00000.parquet", map(tracks.to_table, made))
    assert count == 2
    assert checksums(folder) == before


def test_a_write_that_fails_leaves_what_was_there(folder):
    before = checksums(folder)

    def tables():
        yield tracks.to_table(noise_track("new"))
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        tracks.write_tables(folder / "train-00000.parquet", tables())
    assert {name: before[name] for name in before} == {
        name: checksum for name, checksum in checksums(folder).items() if name in before
    }
    assert len(tracks.read_index(folder, "train")) == 3


def stem(track: tracks.Track, **changed) -> tracks.Track:
    """The track with its last stem changed."""
    return replace(track, stems=[*track.stems[:-1], replace(track.stems[-1], **changed)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: replace(t, split="dev"), r"bands/a: split 'dev' is not one of train, valid"),
        (lambda t: replace(t, stems=t.stems[:1]), r"bands/a: 1 stem\(s\), a pair needs 2 at least"),
        (lambda t: stem(t, name="00-stem"), r"bands/a: stem names are not unique: 00-stem, 00-st"),
        (
            lambda t: stem(t, audio=t.stems[0].audio[:-1]),
            r"stems of \[31999, 32000\] samples, must",
        ),
        (
            lambda t: stem(t, audio=t.stems[0].audio * np.nan),
            r"bands/a/02-stem: holds samples that",
        ),
        (
            lambda t: stem(t, audio=t.stems[0].audio * 20),
            r"bands/a/02-stem: peak 1\.99994 is beyond full scale",
        ),
    ],
)
def test_a_track_that_breaks_a_rule_is_named(spoil, message):
    track = spoil(noise_track("a"))
    with pytest.raises(ValueError, match=message):
        tracks.to_table(track)


def test_no_parquet_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"no valid-\*\.parquet; run prepare for this source first"
    ):
        tracks.read_index(tmp_path, "valid")


def test_a_cut_parquet_is_named(folder):
    path = folder / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        ValueError, match=r"train-00001\.parquet: damaged .*prepare this source aga"
    ):
        tracks.read_index(folder, "train")


def test_sound_that_is_damaged_is_named(folder):
    path = folder / "train-00001.parquet"
    entry = tracks.read_index(folder, "train")[2]
    content = bytearray(path.read_bytes())
    middle = content.index(b"fLaC") + 5_000
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|decoded|ends after"):
        tracks.read_stems(entry)


def test_a_stem_shorter_than_its_row_says_is_named(folder):
    entry = tracks.read_index(folder, "train")[0]
    with pytest.raises(ValueError, match=r"00-stem\.flac holds 24000 samples, its row says 24001"):
        tracks.read_stems(replace(entry, samples=24001))
