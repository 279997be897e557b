"""Stage `render`: what is drawn, what sounds in the shards, and that nothing else decides it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import webdataset
from tiny_render import ROOT, checksums, noise_track, prepare, tiny_params

from phalar import audio, render, tracks
from phalar.params import Params, Paths
from phalar.render import pairs, shards, trials

SPLITS = tracks.SPLITS


def everywhere(count: int, **what) -> list[tracks.Track]:
    """As many noise tracks in each split."""
    return [
        noise_track(f"{split}-{number}", split=split, **what)
        for split in SPLITS
        for number in range(count)
    ]


def rows_of(folder: Path) -> list[dict]:
    return pq.read_table(folder / render.PAIRS).to_pylist()


def sound_of(folder: Path, row: dict) -> np.ndarray:
    """Both sides of a pair as int16 (2, N), read as any WebDataset is."""
    stream = webdataset.WebDataset(str(folder / row["shard"]), shardshuffle=False)
    sample = next(sample for sample in stream if sample["__key__"] == row["key"])
    decoded = [
        audio.read_audio(sample.get(f"{side}.wav") or sample[f"{side}.flac"])[0][0]
        for side in shards.SIDES
    ]
    return np.stack(decoded) * 32768


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> tuple[Params, Paths]:
    """Two sources, six songs a split, loud enough to clip where all stems meet."""
    paths = Paths(tmp_path_factory.mktemp("data"))
    for source in ("chorales", "bands"):
        made = everywhere(6, source=source, level=0.6, seconds=4.0)
        prepare(paths.prepare(source), made)
    params = tiny_params(sources=("chorales", "bands"))
    render.run(params, paths)
    return params, paths


@pytest.mark.parametrize("count", range(2, 9))
def test_stem_sets_are_disjoint_and_not_empty(count):
    for item in range(300):
        anchor, positive = pairs.draw_stems(count, np.random.default_rng(item))
        both = [*anchor, *positive]
        assert len(anchor) and len(positive)
        assert len(set(both)) == len(both)
        assert set(both) <= set(range(count))


def test_stems_and_their_numbers_are_drawn_as_often_as_the_paper_says():
    count, draws = 5, 10_000
    rng = np.random.default_rng(1)
    drawn = [pairs.draw_stems(count, rng) for _ in range(draws)]
    numbers = Counter((len(anchor), len(positive)) for anchor, positive in drawn)
    for n1 in range(1, count):
        for n2 in range(1, count - n1 + 1):
            chance = 1 / (count - 1) / (count - n1)
            spread = np.sqrt(draws * chance * (1 - chance))
            assert abs(numbers[n1, n2] - draws * chance) < 4.5 * spread
    for side in (0, 1):
        heard = np.bincount(np.concatenate([draw[side] for draw in drawn]), minlength=count)
        # A stem's count is a sum of draws of 0 or 1, of variance 1/4 at most.
        assert np.ptp(heard) < 2 * 4.5 * np.sqrt(draws / 4)


def test_a_pair_depends_on_its_own_number_alone(tmp_path):
    prepare(tmp_path, everywhere(3))
    settings = tiny_params().render
    index = tracks.read_index(tmp_path, "train")
    few = pairs.draw_pairs(index, settings, "train", draw="audible", count=5)
    many = pairs.draw_pairs(index, settings, "train", draw="audible", count=50)
    assert np.array_equal(few, many[:5])
    other = pairs.draw_pairs(
        index, settings.model_copy(update={"seed": 2}), "train", draw="audible", count=5
    )
    assert not np.array_equal(few, other)


def test_shares_follow_the_weights_and_add_up():
    assert pairs.share({"a": 1.0, "b": 2.0}, ["a", "b"], 9) == {"a": 3, "b": 6}
    assert pairs.share({"a": 1.0, "b": 1.0, "c": 1.0}, ["a", "b", "c"], 10) == {
        "a": 4,
        "b": 3,
        "c": 3,
    }
    with pytest.raises(ValueError, match=r"render\.weights: b = 0\.001 of 1\.001 gives it none of"):
        pairs.share({"a": 1.0, "b": 0.001}, ["a", "b"], 100)


def test_every_shard_holds_the_same_mix(tmp_path):
    paths = Paths(tmp_path)
    for source in ("chorales", "bands"):
        prepare(paths.prepare(source), everywhere(2, source=source))
    params = tiny_params(
        sources=("chorales", "bands"),
        render={
            "pairs": {"train": 100, "valid": 2, "test": 2},
            "weights": {"chorales": 0.3, "bands": 0.7},
        },
    )
    drawn = pairs.plan(params, paths, "train").source
    assert Counter(drawn.tolist()) == {"chorales": 30, "bands": 70}
    for first in range(0, 100, 10):
        assert abs(np.sum(drawn[first : first + 10] == "chorales") - 3) <= 1


def test_sound_is_the_sum_of_the_named_stems(rendered):
    params, paths = rendered
    index = {
        (split, source, track.track): track
        for split in SPLITS
        for source in params.sources
        for track in tracks.read_index(paths.prepare(source), split)
    }
    lowered = 0
    for row in rows_of(paths.render)[::3]:
        track = index[row["split"], row["source"], row["track"]]
        stems = tracks.read_stems(track)
        sound = sound_of(paths.render, row)
        moment = slice(row["start_samples"], row["start_samples"] + row["samples"])
        for side, heard in zip(shards.SIDES, sound, strict=True):
            members = [track.stems.index(name) for name in row[f"{side}_stems"]]
            wanted = stems[members, moment].sum(axis=0) * np.float32(32768 * row["gain"])
            # The sum itself where nothing had to be lowered, else to 16-bit rounding.
            assert np.abs(heard - wanted).max() <= (0.51 if row["gain"] < 1 else 0)
            assert row[f"{side}_instruments"] == [track.instruments[n] for n in members]
            level_db = 10 * np.log10(np.mean((heard / 32768) ** 2))
            assert row[f"{side}_level_db"] == pytest.approx(level_db, abs=1e-3)
        lowered += row["gain"] < 1
        assert (np.abs(sound).max() > 32766) == (row["gain"] < 1)
    assert lowered


def test_shards_hold_the_pairs_in_order_and_nothing_else(rendered):
    params, paths = rendered
    rows = rows_of(paths.render)
    assert [(row["split"], row["pair"]) for row in rows] == [
        (split, pair)
        for split, count in zip(SPLITS, (24, 8 * 4, 16 * 4), strict=True)
        for pair in range(count)
    ]
    for path in sorted(paths.render.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        here = [row for row in rows if paths.render / row["shard"] == path]
        assert len(here) <= params.render.pairs_per_shard
        assert [member.name for member in members] == [
            f"{row['key']}.{side}.wav" for row in here for side in shards.SIDES
        ]
        assert [(member.offset_data, member.size) for member in members] == [
            (row[f"{side}_offset"], row[f"{side}_bytes"]) for row in here for side in shards.SIDES
        ]
        assert {member.mtime for member in members} == {0}
        assert path.stat().st_size % tarfile.RECORDSIZE == 0


def test_the_report_adds_up(rendered):
    params, paths = rendered
    rows = rows_of(paths.render)
    index = {split: pairs.plan(params, paths, split) for split in SPLITS}
    summary = json.loads((paths.render / render.REPORT).read_text())
    assert sum(count["pairs"] for count in summary["counts"]) == len(rows)
    for count in summary["counts"]:
        here = [row for row in rows if all(row[k] == count[k] for k in ("split", "source", "draw"))]
        assert count["pairs"] == len(here)
        assert count["songs"] == len({row["song"] for row in here})
        assert count["seconds"] == sum(row["samples"] for row in here) / audio.SAMPLE_RATE_HZ
        assert count["bytes"] == sum(row["anchor_bytes"] + row["positive_bytes"] for row in here)
    assert sum(count["redrawn"] for count in summary["counts"]) == sum(
        drawn.rows["redrawn"].sum() for drawn in index.values()
    )
    assert summary["shards"] == len(list(paths.render.rglob("*.tar")))


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, rendered):
    params, paths = rendered
    assert params.render.workers == 1
    wanted = checksums(paths.render)
    for workers in (2, 4):
        here = Paths(tmp_path / str(workers))
        here.root.mkdir()
        (here.root / "prepare").symlink_to(paths.root / "prepare")
        settings = params.render.model_copy(update={"workers": workers})
        render.run(params.model_copy(update={"render": settings}), here)
        assert checksums(here.render) == wanted
        assert not list(here.root.glob("render.*"))


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_render import tiny_params
from phalar import render
from phalar.params import Paths
if __name__ == "__main__":
    many = {{"pairs": {{"train": 1500, "valid": 8, "test": 16}}, "workers": {workers}}}
    render.run(tiny_params(render=many), Paths(Path({root!r})))
"""


def test_a_killed_render_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    paths = Paths(tmp_path / "data")
    prepare(paths.prepare("bands"), everywhere(40, seconds=1.0))
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(ROOT / "tests"), workers=2, root=str(paths.root)))
    process = subprocess.Popen([sys.executable, script], cwd=ROOT)
    notes = paths.root / "render.part" / shards.NOTES
    while not list(notes.glob("*.bin")):
        assert process.poll() is None
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert not paths.render.exists()
    done = sum(path.stat().st_size // shards.MIXED.itemsize for path in notes.glob("*.bin"))

    mixed = []
    write = shards._write
    monkeypatch.setattr(shards, "_write", lambda *arguments: (mixed.append(1), write(*arguments)))
    params = tiny_params(render={"pairs": {"train": 1500, "valid": 8, "test": 16}})
    render.run(params, paths)
    assert len(mixed) == 1500 + 16 + 32 - done
    resumed = checksums(paths.render)
    render.run(params, paths)
    assert checksums(paths.render) == resumed


class StoppedError(Exception):
    """Stands for a kill that the test can place exactly."""


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("where", ["mix", "seal", "freeze"])
def test_a_render_stopped_anywhere_leaves_no_result_and_goes_on(
    tmp_path, rendered, monkeypatch, where, container
):
    params, paths = rendered
    settings = params.render.model_copy(update={"container": container})
    params = params.model_copy(update={"render": settings})
    whole, here = Paths(tmp_path / "whole"), Paths(tmp_path / "here")
    for folder in (whole.root, here.root):
        folder.mkdir()
        (folder / "prepare").symlink_to(paths.root / "prepare")
    render.run(params, whole)

    module = trials if where == "freeze" else shards
    wrapped, calls = getattr(module, where), []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise StoppedError
        return wrapped(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "FEW_PAIRS", 16)
        patch.setattr(module, where, stopping)
        with pytest.raises(StoppedError):
            render.run(params, here)
    assert not here.render.exists()
    monkeypatch.setattr(shards, "FEW_PAIRS", 16)
    render.run(params, here)
    assert checksums(here.render) == checksums(whole.render)


def test_what_was_begun_with_other_parameters_is_thrown_away(tmp_path, rendered, monkeypatch):
    params, paths = rendered
    here = Paths(tmp_path)
    (here.root / "prepare").symlink_to(paths.root / "prepare")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "seal", lambda *_, **__: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            other = params.render.model_copy(update={"seed": 7})
            render.run(params.model_copy(update={"render": other}), here)
    assert (tmp_path / "render.part").exists()
    render.run(params, here)
    assert checksums(here.render) == checksums(paths.render)


def test_flac_holds_the_same_sound(tmp_path, rendered):
    params, paths = rendered
    here = Paths(tmp_path)
    (here.root / "prepare").symlink_to(paths.root / "prepare")
    settings = params.render.model_copy(update={"container": "flac"})
    render.run(params.model_copy(update={"render": settings}), here)
    for wav, flac in list(zip(rows_of(paths.render), rows_of(here.render), strict=True))[::7]:
        assert np.array_equal(sound_of(paths.render, wav), sound_of(here.render, flac))
        for side in shards.SIDES:
            with (here.render / flac["shard"]).open("rb") as file:
                file.seek(flac[f"{side}_offset"])
                sound, _ = audio.read_audio(file.read(flac[f"{side}_bytes"]))
            assert sound.shape == (1, flac["samples"])


def test_audible_pairs_are_heard_and_paper_pairs_may_be_silent(tmp_path):
    paths = Paths(tmp_path)
    silent = [(0, slice(0.0, 3.0)), (1, slice(2.5, 4.0))]
    prepare(paths.prepare("bands"), everywhere(3, seconds=4.0, silent=silent))
    params = tiny_params(render={"pairs": {"train": 60, "valid": 1, "test": 60}})
    render.run(params, paths)
    worst = {"audible": 1.0, "paper": 1.0}
    for row in rows_of(paths.render):
        levels = [audio.levels_db(side / 32768) for side in sound_of(paths.render, row)]
        heard = np.mean(np.min(levels, axis=0) > params.render.audible_db)
        worst[row["draw"]] = min(worst[row["draw"]], heard)
    # Levels of tracks are known by the tenth of a second, in which a half-second pair has five.
    assert worst["audible"] >= params.render.audible_fraction - 0.2
    assert worst["paper"] == 0


def test_a_silent_source_is_refused(tmp_path):
    paths = Paths(tmp_path)
    prepare(paths.prepare("bands"), everywhere(2, level=1e-4))
    with pytest.raises(ValueError, match=r"no audible pair in \d+ draws from the 2 train tracks"):
        render.run(tiny_params(), paths)


def test_a_track_that_is_never_heard_gives_way_to_another(tmp_path):
    paths = Paths(tmp_path)
    made = [noise_track("silent", level=1e-4), noise_track("loud")]
    prepare(paths.prepare("bands"), made)
    drawn = pairs.plan(tiny_params(), paths, "train")
    assert {drawn.tracks[place].track for place in drawn.rows["track"]} == {"loud"}
    assert drawn.rows["redrawn"].max() >= pairs.TRIES_A_TRACK


def test_short_tracks_are_left_out_and_counted(tmp_path):
    paths = Paths(tmp_path)
    made = [*everywhere(2), noise_track("short", seconds=0.4)]
    prepare(paths.prepare("bands"), made)
    drawn = pairs.plan(tiny_params(), paths, "train")
    assert drawn.too_short == {"bands": 1}
    assert "short" not in {track.track for track in drawn.tracks}
    longer = tiny_params(render={"pair_s": {"train": 3.0, "valid": 0.5, "test": 0.5}})
    with pytest.raises(ValueError, match=r"train: no track is as long as a pair \(3 s\)"):
        render.run(longer, paths)


def test_too_many_stems_are_refused(tmp_path):
    paths = Paths(tmp_path)
    prepare(paths.prepare("bands"), everywhere(1, stems=65, seconds=0.6))
    with pytest.raises(ValueError, match=r"has 65 stems, must be 2 to 64"):
        render.run(tiny_params(), paths)


def test_missing_and_damaged_tracks_are_named(tmp_path):
    paths = Paths(tmp_path)
    with pytest.raises(ValueError, match=r"bands: no train-\*\.parquet; run prepare"):
        render.run(tiny_params(), paths)
    prepare(paths.prepare("bands"), everywhere(2))
    path = paths.prepare("bands") / "test-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"test-00000\.parquet: damaged .* prepare"):
        render.run(tiny_params(), paths)


def test_a_disk_that_cannot_hold_the_shards_is_refused_at_the_start(tmp_path, monkeypatch):
    paths = Paths(tmp_path)
    prepare(paths.prepare("bands"), everywhere(2))
    usage = render.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(render.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"the shards need 0\.0 GB, 0\.0 GB are free; free space or"):
        render.run(tiny_params(), paths)
    assert not paths.render.exists()


def test_a_disk_that_fills_is_named_and_the_rest_is_done_later(tmp_path, rendered, monkeypatch):
    params, paths = rendered
    here = Paths(tmp_path)
    (here.root / "prepare").symlink_to(paths.root / "prepare")
    write, written = os.pwrite, []

    def filling(file, content, offset):
        written.append(len(content))
        if len(written) == 50:
            return write(file, content[:1000], offset)
        if len(written) == 51:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content, offset)

    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(OSError, match=r"\.tar\.part: took 1000 of \d+ bytes; make space"):
        render.run(params, here)
    with pytest.raises(OSError, match=r"\.tar\.part: No space left on device; make space"):
        render.run(params, here)
    render.run(params, here)
    assert checksums(here.render) == checksums(paths.render)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    paths = Paths(tmp_path)
    prepare(paths.prepare("bands"), everywhere(2))
    (tmp_path / "render.part").write_text("in the way")
    with pytest.raises(OSError, match=r"render\.part"):
        render.run(tiny_params(), paths)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> tuple[pairs.Pairs, dict[str, list[dict]]]:
    """Test pairs of five songs, two of them with two tracks, and their trials by protocol and K."""
    paths = Paths(tmp_path_factory.mktemp("trials"))
    made = [
        noise_track(f"test-{number}", split="test", song=f"song-{number % 5}", seconds=8.0)
        for number in range(7)
    ]
    prepare(paths.prepare("bands"), made)
    params = tiny_params(
        render={
            "pairs": {"train": 1, "valid": 1, "test": 90},
            "trial_candidates": [4, 8, 5, 128],
        }
    )
    drawn = pairs.plan(params, paths, "test")
    found: dict[str, list[dict]] = {}
    for row in trials.freeze(drawn, params.render).to_pylist():
        found.setdefault(f"{row['protocol']}/{row['candidates']}", []).append(row)
    return drawn, found


def test_trials_are_those_that_there_are_pairs_and_songs_for(frozen):
    _, found = frozen
    assert set(found) == {"paper/4", "paper/5", "paper/8", "songs/4", "songs/5", "song/8"}


def test_every_trial_has_its_answer_among_distinct_choices(frozen):
    drawn, found = frozen
    for name, rows in found.items():
        protocol = name.split("/")[0]
        assert [row["trial"] for row in rows] == list(range(len(rows)))
        for row in rows:
            assert row["choices"][row["answer"]] == row["anchor"]
            assert len(set(row["choices"])) == len(row["choices"]) == row["candidates"]
            assert set(drawn.rows["audible"][row["choices"]]) == {protocol != "paper"}
        places = Counter(row["answer"] for row in rows)
        assert set(places) == set(range(rows[0]["candidates"]))


def test_paper_trials_are_batches_in_which_each_pair_asks_once(frozen):
    drawn, found = frozen
    ids = np.flatnonzero(~drawn.rows["audible"]).tolist()
    for name in ("paper/4", "paper/8"):
        rows = found[name]
        assert sorted(row["anchor"] for row in rows) == ids
        k = rows[0]["candidates"]
        batches = Counter(tuple(sorted(row["choices"])) for row in rows)
        assert sorted(batches.values()) == sorted([k] * (len(ids) // k) + [len(ids) % k])


def test_trials_of_songs_have_one_moment_of_each(frozen):
    drawn, found = frozen
    for name in ("songs/4", "songs/5"):
        assert sorted(row["anchor"] for row in found[name]) == list(range(90, 180))
        for row in found[name]:
            assert len(set(drawn.song[row["choices"]])) == row["candidates"]


def test_trials_within_a_song_have_moments_of_one_track_that_do_not_overlap(frozen):
    drawn, found = frozen
    assert len(found["song/8"]) > 45
    for row in found["song/8"]:
        chosen = drawn.rows[row["choices"]]
        assert len(set(chosen["track"])) == 1
        assert np.diff(np.sort(chosen["start"])).min() >= drawn.samples


def test_validation_has_paper_trials_of_the_largest_candidates_alone(rendered):
    _, paths = rendered
    rows = pq.read_table(paths.render / render.TRIALS).to_pylist()
    kinds = Counter(
        (row["source"], row["protocol"], row["candidates"])
        for row in rows
        if row["split"] == "valid"
    )
    assert kinds == {("chorales", "paper", 4): 8, ("bands", "paper", 4): 8}
    assert {row["split"] for row in rows} == {"valid", "test"}
