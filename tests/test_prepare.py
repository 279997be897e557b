"""Prepare: every track accounted for, songs in one split, the same bytes however it is run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mido
import numpy as np
import psutil
import pytest
import yaml

from phalar import download, params, prepare, tracks
from phalar.params import Splits
from phalar.sources import bands, freedoom

PARAMS = Path(__file__).parents[1] / "params.yaml"
TICKS = 480
BARS = 2


def write_piece(path, rng):
    """Write a small band: random bass, guitar and piano, and a hi-hat."""
    file = mido.MidiFile(ticks_per_beat=TICKS)
    for channel, program, low in ((0, 33, 36), (1, 27, 55), (2, 0, 60), (9, 0, 42)):
        track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
        for pitch in rng.integers(low, low + 20, 4 * BARS).tolist():
            key = {"channel": channel, "note": 42 if channel == 9 else pitch}
            track.append(mido.Message("note_on", velocity=90, **key))
            track.append(mido.Message("note_off", time=TICKS, **key))
        file.tracks.append(track)
    file.save(path)


def settings(root, songs, **changes):
    """Write parameters and a download of so many small bands below `root`; load the parameters."""
    raw = yaml.safe_load(PARAMS.read_text())
    raw["prepare"] |= {
        "workers": 1,
        "split": {"salt": 3, "train": 0.5, "valid": 0.25, "test": 0.25},
        "bands": {"renditions": 1, "max_s": 10.0},
    } | changes
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    loaded = params.load(root / "params.yaml")
    folder = loaded.paths.download("bands")
    folder.mkdir(parents=True, exist_ok=True)
    for number, lump in enumerate(sorted(freedoom.CREDITS)[:songs]):
        write_piece(folder / f"freedoom1-d_{lump}.mid", np.random.default_rng(number))
    seal(loaded)
    return loaded


def seal(loaded):
    """Write the receipt that the download stage would have written."""
    folder = loaded.paths.download("bands")
    files = [
        {
            "path": p.name,
            "url": "",
            "bytes": 0,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in sorted(folder.glob("*.mid"))
    ]
    receipt = {"source": "bands", "params": {}, "licence": "", "credits": "", "files": files}
    (folder / download.RECEIPT).write_text(json.dumps(receipt))


def digests(loaded):
    folder = loaded.paths.prepare("bands")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Eight bands, prepared in this process."""
    loaded = settings(tmp_path_factory.mktemp("done"), 8)
    return loaded, prepare.run(loaded, "bands")


def test_all_tracks_are_accounted_for(done):
    loaded, summary = done
    assert (summary.found, summary.kept, summary.dropped) == (8, 8, [])
    report = json.loads((loaded.paths.prepare("bands") / "report.json").read_text())
    assert report["kept"] + len(report["dropped"]) == report["found"]
    assert sum(split["tracks"] for split in report["splits"].values()) == 8
    assert report["instruments"] == {"bass": 8, "guitar": 8, "piano": 8, "drums": 8}
    assert not loaded.paths.prepare("bands").with_name("bands.part").exists()


def test_tracks_can_be_read_with_what_is_known_of_them(done):
    loaded, summary = done
    checksums = {
        f["path"]: f["sha256"]
        for f in download.read_receipt(loaded.paths.download("bands"))["files"]
    }
    songs = set()
    for split in tracks.SPLITS:
        for index in tracks.read_index(loaded.paths.prepare("bands"), split):
            stems = tracks.read_stems(index)
            assert stems.shape == (4, index.samples)
            assert (np.abs(stems).max(axis=1) > 0.01).all()
            assert np.abs(stems.sum(axis=0)).max() <= 0.91
            assert index.instruments == ["bass", "guitar", "piano", "drums"]
            assert 120 * 0.84 < index.tempo_bpm < 120 * 1.19
            ((path, sha256),) = index.source_files
            assert checksums[path] == sha256
            assert index.song not in songs
            songs.add(index.song)
    assert len(songs) == summary.kept


def test_two_processes_give_the_bytes_of_one(done, tmp_path):
    other = settings(tmp_path, 8, workers=2)
    prepare.run(other, "bands")
    assert digests(other) == digests(done[0])


def test_killed_and_run_again_gives_the_same_bytes(done, tmp_path):
    loaded = settings(tmp_path, 8, workers=2)
    code = (
        "import pathlib, phalar.params, phalar.prepare\n"
        "if __name__ == '__main__':\n"
        f"    loaded = phalar.params.load(pathlib.Path({str(tmp_path / 'params.yaml')!r}))\n"
        "    phalar.prepare.run(loaded, 'bands')\n"
    )
    (tmp_path / "stage.py").write_text(code)
    stage = subprocess.Popen(
        [sys.executable, str(tmp_path / "stage.py")],
        env=os.environ | {"PYTHONPATH": str(PARAMS.parent)},
        stderr=subprocess.DEVNULL,
    )
    made = loaded.paths.prepare("bands").with_name("bands.part") / "tracks"
    while not list(made.glob("*.parquet")):
        assert stage.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.005)
    workers = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers outlive the stage"
    assert not loaded.paths.prepare("bands").exists()
    kept = {path: path.stat().st_mtime_ns for path in made.glob("*.parquet")}
    jobs, _ = prepare.plan(loaded, "bands", map)
    aside = prepare.open_aside(loaded, "bands")
    for job in jobs:
        prepare.make_track(job, params=loaded, aside=aside)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "made twice"
    prepare.run(loaded, "bands")
    assert digests(loaded) == digests(done[0])


def test_other_parameters_do_not_use_what_lies_aside(tmp_path):
    loaded = settings(tmp_path, 3)
    aside = prepare.open_aside(loaded, "bands")
    (aside / "tracks" / "old.parquet").touch()
    assert prepare.open_aside(loaded, "bands").joinpath("tracks/old.parquet").exists()
    changed = settings(tmp_path, 3, seed=2)
    assert not list(prepare.open_aside(changed, "bands").glob("tracks/*"))


def test_the_seed_changes_the_sound_and_not_the_split(done, tmp_path):
    other = settings(tmp_path, 8, seed=2)
    prepare.run(other, "bands")
    for split in tracks.SPLITS:
        here, there = (
            tracks.read_index(loaded.paths.prepare("bands"), split) for loaded in (done[0], other)
        )
        assert [index.song for index in here] == [index.song for index in there]
        assert all(a.tempo_bpm != b.tempo_bpm for a, b in zip(here, there, strict=True))


def test_another_song_moves_and_changes_no_other(done, tmp_path):
    more = settings(tmp_path, 9)
    prepare.run(more, "bands")

    def rows(loaded):
        return {
            index.track: (split, tracks.read_stems(index).tobytes())
            for split in tracks.SPLITS
            for index in tracks.read_index(loaded.paths.prepare("bands"), split)
        }

    before, after = rows(done[0]), rows(more)
    assert len(after) == 9
    assert {name: after[name] for name in before} == before


def test_scores_are_split_by_song_whoever_wrote_them(done):
    loaded = done[0]
    for split in tracks.SPLITS:
        for index in tracks.read_index(loaded.paths.prepare("bands"), split):
            assert prepare.split_of("bands", index.song, loaded.prepare.split) == split


def test_renditions_of_a_song_share_its_split(tmp_path):
    loaded = settings(tmp_path, 8, bands={"renditions": 2, "max_s": 10.0})
    assert prepare.run(loaded, "bands").kept == 16
    for split in tracks.SPLITS:
        indices = tracks.read_index(loaded.paths.prepare("bands"), split)
        assert len({index.song for index in indices}) == len(indices) / 2
        assert len({index.tempo_bpm for index in indices}) == len(indices)


def test_bad_tracks_are_dropped_with_their_reason(tmp_path):
    loaded = settings(tmp_path, 8, max_bad_fraction=0.2)
    folder = loaded.paths.download("bands")
    (folder / "freedoom1-d_adrian.mid").write_bytes(b"<html>")
    seal(loaded)
    summary = prepare.run(loaded, "bands")
    (drop,) = summary.dropped
    assert (summary.found, summary.kept) == (8, 7)
    assert drop.track == "freedoom1-d_adrian_r0"
    assert drop.bad
    assert "not readable as MIDI" in drop.reason


def test_too_many_bad_tracks_are_an_error_and_leave_nothing(tmp_path):
    loaded = settings(tmp_path, 4, max_bad_fraction=0.2)
    (loaded.paths.download("bands") / "freedoom1-d_adrian.mid").write_bytes(b"<html>")
    seal(loaded)
    message = (
        r"prepare bands: 1 of 4 tracks are bad, prepare.max_bad_fraction is 0.2; the first is "
        r"freedoom1-d_adrian_r0: freedoom1-d_adrian.mid: not readable as MIDI"
    )
    with pytest.raises(ValueError, match=message):
        prepare.run(loaded, "bands")
    assert not loaded.paths.prepare("bands").exists()


def test_unwanted_tracks_are_not_bad(tmp_path):
    loaded = settings(tmp_path, 8, max_bad_fraction=0.0)
    path = loaded.paths.download("bands") / "freedoom1-d_adrian.mid"
    solo = mido.MidiFile(path)
    solo.tracks = solo.tracks[:2]
    solo.save(path)
    seal(loaded)
    (drop,) = prepare.run(loaded, "bands").dropped
    assert not drop.bad
    assert drop.reason == "2 programs without drums; 3 and drums make a band"


def test_without_a_download_the_stage_to_run_is_named(tmp_path):
    loaded = settings(tmp_path, 1)
    shutil.rmtree(loaded.paths.download("bands"))
    with pytest.raises(ValueError, match=r"receipt.json is missing; run the download stage"):
        prepare.run(loaded, "bands")


def test_a_file_without_receipt_is_refused(tmp_path):
    loaded = settings(tmp_path, 2)
    write_piece(loaded.paths.download("bands") / "freedoom1-d_evil.mid", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"d_evil.mid is not in the receipt; run the download"):
        prepare.run(loaded, "bands")


def test_an_empty_split_is_an_error(tmp_path):
    loaded = settings(tmp_path, 2, split={"salt": 1, "train": 1.0, "valid": 0.0, "test": 0.0})
    with pytest.raises(ValueError, match=r"split 'valid' is empty; change prepare.split"):
        prepare.run(loaded, "bands")


def test_a_full_disk_leaves_a_state_to_go_on_from(done, tmp_path, monkeypatch):
    loaded = settings(tmp_path, 8)
    written = []

    def write_until_full(path, tables):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        return write(path, tables)

    write = tracks.write_tables
    monkeypatch.setattr(tracks, "write_tables", write_until_full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare.run(loaded, "bands")
    assert not loaded.paths.prepare("bands").exists()
    monkeypatch.setattr(tracks, "write_tables", write)
    calls = []
    make = bands.make
    monkeypatch.setattr(bands, "make", lambda *job: calls.append(job) or make(*job))
    prepare.run(loaded, "bands")
    assert len(calls) == 8 - 3
    assert digests(loaded) == digests(done[0])


def test_shares_of_many_songs_are_those_asked_for():
    split = Splits(salt=1, train=0.7, valid=0.1, test=0.2)
    places = [prepare.split_of("bands", f"song {number}", split) for number in range(5000)]
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert places.count(name) / 5000 == pytest.approx(share, abs=0.02)


def test_the_test_split_of_bands_has_enough_songs_for_trials_of_eight():
    split = params.load(PARAMS).prepare.split
    first = ("e1", "e2", "e3", "e4", "inter", "intro", "victor", "bunny")
    songs = [
        f"freedoom{1 if lump.startswith(first) else 2}-d_{lump}"
        for lump in freedoom.CREDITS
        # No drums, and two that quote another piece and share its song.
        if lump not in ("e3m8", "e3m2", "ampie")
    ]
    places = [prepare.split_of("bands", song, split) for song in songs]
    assert len(songs) == 72
    assert places.count("test") >= 8
    assert places.count("valid") >= 4
