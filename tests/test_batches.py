"""Batches: the plan of an epoch, who gets what of it, and what a damaged shard says."""

from __future__ import annotations

import shutil
import tarfile
import threading
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_render import noise_track, prepare, tiny_params

from phalar import render
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Paths, Train
from phalar.train.batches import Batch, Batches, read_pairs
from phalar.train.plan import plan_epoch
from phalar.train.shards import PairIndex, read_crop


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Seventy training pairs of nine songs, in shards of ten."""
    return _render(tmp_path_factory.mktemp("wav"), "wav")


@pytest.fixture(scope="module")
def flac_shards(tmp_path_factory) -> Path:
    return _render(tmp_path_factory.mktemp("flac"), "flac")


def _render(root: Path, container: str) -> Path:
    paths = Paths(root)
    made = [
        noise_track(f"{split}-{number}", split=split)
        for split in ("train", "valid", "test")
        for number in range(9)
    ]
    prepare(paths.prepare("bands"), made)
    counts = {"train": 70, "valid": 13, "test": 4}
    render.run(tiny_params(render={"pairs": counts, "container": container}), paths)
    return paths.render


def settings(**changed) -> Train:
    usual = {"batch_pairs": 8, "crop_s": [0.2, 0.3], "workers": 0}
    return tiny_params().train.model_copy(update=usual | changed)


def index_of(songs: list[int]) -> PairIndex:
    """An index with these songs and nothing to read."""
    nothing = np.empty((len(songs), 2), dtype=np.int64)
    names = np.full(len(songs), "")
    return PairIndex(
        folder=Path(),
        split="train",
        samples=1,
        pair=np.arange(len(songs)),
        shard=names,
        key=names,
        song=np.array(songs),
        pool=np.zeros(len(songs), dtype=np.int64),
        offset=nothing,
        bytes=nothing,
    )


def plan_of(index: PairIndex, **chance: int) -> np.ndarray:
    return plan_epoch(index.song, index.pool, **chance)


def take(source: Batches, count: int) -> list[Batch]:
    return list(islice(source, count))


def equal(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.pair, other.pair)
        and torch.equal(one.song, other.song)
        and torch.equal(one.wave, other.wave)
    )


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 12), st.integers(0, 99)
)
def test_no_song_is_in_a_batch_twice_and_no_batch_too_few(counts, batch_pairs, seed):
    songs = np.repeat(np.arange(len(counts)), counts).tolist()
    assume(len(songs) >= batch_pairs)
    plan = plan_of(index_of(songs), seed=seed, epoch=0, batch_pairs=batch_pairs)
    assert len(set(plan.ravel())) == plan.size
    often = [Counter(songs[pair] for pair in batch).most_common(1)[0][1] for batch in plan]
    if len(counts) < batch_pairs:
        assert len(plan) == len(songs) // batch_pairs
        # Of a song with k pairs, no batch can do with fewer than k / batches.
        used = Counter(songs[pair] for pair in plan.ravel())
        for song, count in used.items():
            held = [sum(songs[pair] == song for pair in batch) for batch in plan]
            assert max(held) == -(-count // len(plan))
    else:
        assert all(count == 1 for count in often)
        # So many batches can be filled, and one more could not.
        more = len(plan) + 1
        assert np.minimum(counts, len(plan)).sum() >= len(plan) * batch_pairs
        assert np.minimum(counts, more).sum() < more * batch_pairs


def test_a_plan_is_that_of_its_seed_and_epoch():
    index = index_of(np.repeat(np.arange(20), 9).tolist())
    plans = {
        (seed, epoch): plan_of(index, seed=seed, epoch=epoch, batch_pairs=6)
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    again = plan_of(index, seed=1, epoch=1, batch_pairs=6)
    assert np.array_equal(again, plans[1, 1])
    assert len({plan.tobytes() for plan in plans.values()}) == 4


def test_a_batch_takes_its_pairs_from_one_pool():
    song = np.repeat(np.arange(14), 9)
    pool = np.where(song < 8, 0, 1)
    plan = plan_epoch(song, pool, seed=1, epoch=0, batch_pairs=6)
    pools = pool[plan]
    assert (pools == pools[:, :1]).all()
    # Each pool fills as many batches as it would alone, and they are not read one after the other.
    assert [int(n) for n in np.bincount(pools[:, 0])] == [8 * 9 // 6, 6 * 9 // 6]
    assert (np.diff(pools[:, 0]) != 0).sum() > 2
    assert len(set(plan.ravel())) == plan.size


def test_songs_meet_as_often_as_chance_has_it():
    songs, pairs, batch_pairs = 20, 12, 5
    index = index_of(np.repeat(np.arange(songs), pairs).tolist())
    met = np.zeros((songs, songs))
    for epoch in range(200):
        plan = plan_of(index, seed=1, epoch=epoch, batch_pairs=batch_pairs)
        present = np.zeros((len(plan), songs))
        np.put_along_axis(present, index.song[plan], 1, axis=1)
        met += present.T @ present
    others = met[~np.eye(songs, dtype=bool)]
    expected = 200 * pairs * (batch_pairs - 1) / (songs - 1)
    assert others.mean() == pytest.approx(expected)
    assert np.abs(others / expected - 1).max() < 0.3


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_workers_share_the_same_batches(shards, world, workers):
    index = PairIndex.read(shards, "train")
    wanted = take(Batches(index, settings()), 12)
    ranks = [
        take(Batches(index, settings(workers=workers), rank=rank, world=world), 12)
        for rank in range(world)
    ]
    for whole, *parts in zip(wanted, *ranks, strict=True):
        joined = [torch.cat([getattr(part, name) for part in parts]) for name in Batch.__slots__]
        assert equal(whole, Batch(*joined))


def test_any_batch_can_be_the_first(shards):
    index = PairIndex.read(shards, "train")
    unbroken = take(Batches(index, settings()), 30)
    an_epoch = Batches(index, settings()).batches_an_epoch
    assert an_epoch < 15
    for start in (1, an_epoch - 1, an_epoch, 2 * an_epoch + 1):
        resumed = take(Batches(index, settings(workers=1), start_batch=start), 3)
        assert all(map(equal, resumed, unbroken[start : start + 3]))


@pytest.mark.parametrize("container", ["shards", "flac_shards"])
def test_a_batch_holds_one_moment_of_both_sides(request, container):
    folder = request.getfixturevalue(container)
    index = PairIndex.read(folder, "train")
    whole = next(read_pairs(folder, "train", clip_s=0.5, batch_pairs=70)).wave.numpy()
    starts, lengths = [], set()
    for batch in take(Batches(index, settings()), 20):
        samples = batch.wave.shape[-1]
        lengths.add(samples)
        assert torch.equal(batch.song, torch.from_numpy(index.song[batch.pair]))
        for pair, wave in zip(batch.pair, batch.wave.numpy(), strict=True):
            # Noise: where the first eight samples of the anchor stand, there the crop is from.
            first = np.lib.stride_tricks.sliding_window_view(whole[pair, 0], 8)
            (start,) = np.flatnonzero((first == wave[0, :8]).all(axis=1))
            assert np.array_equal(wave, whole[pair, :, start : start + samples])
            starts.append(start / (whole.shape[-1] - samples))
    assert lengths == {round(0.2 * SAMPLE_RATE_HZ), round(0.3 * SAMPLE_RATE_HZ)}
    assert 0.4 < np.mean(starts) < 0.6
    assert np.ptp(starts) > 0.9


def test_a_batch_becomes_sound_on_its_device(shards):
    batch = take(Batches(PairIndex.read(shards, "train"), settings()), 1)[0]
    moved = batch.to("cpu")
    assert moved.wave.dtype == torch.float32
    assert torch.equal(moved.wave * 32768, batch.wave.float())
    assert torch.equal(moved.to("cpu").wave, moved.wave)
    assert torch.equal(moved.anchor, moved.wave[:, 0])
    assert torch.equal(moved.positive, moved.wave[:, 1])


def test_pairs_are_streamed_in_order_from_their_middle(shards):
    whole = torch.cat([b.wave for b in read_pairs(shards, "valid", clip_s=0.5, batch_pairs=4)])
    cut = list(read_pairs(shards, "valid", clip_s=0.2, batch_pairs=4))
    assert [len(batch.pair) for batch in cut] == [4] * 6 + [2]
    assert torch.cat([batch.pair for batch in cut]).tolist() == list(range(26))
    assert torch.equal(torch.cat([b.wave for b in cut]), whole[..., 2400:5600])
    some = list(read_pairs(shards, "valid", clip_s=0.5, batch_pairs=2, wanted=np.array([25, 3, 9])))
    assert [batch.pair.tolist() for batch in some] == [[3, 9], [25]]
    assert torch.equal(torch.cat([batch.wave for batch in some]), whole[[3, 9, 25]])


def test_each_of_several_processes_streams_all_pairs(shards, monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    found = torch.cat([b.pair for b in read_pairs(shards, "valid", clip_s=0.5, batch_pairs=9)])
    assert found.tolist() == list(range(26))


def test_songs_of_two_sources_are_two(tmp_path):
    paths = Paths(tmp_path)
    for source in ("bands", "chorales"):
        made = [
            noise_track(split, split=split, source=source) for split in ("train", "valid", "test")
        ]
        prepare(paths.prepare(source), made)
    render.run(tiny_params(sources=("bands", "chorales")), paths)
    index = PairIndex.read(paths.render, "train")
    sources = pq.read_table(paths.render / render.PAIRS)["source"].to_pylist()[: len(index.pair)]
    assert len(set(zip(sources, index.song.tolist(), strict=True))) == len(set(index.song.tolist()))


@pytest.mark.parametrize(
    ("changed", "world", "message"),
    [
        ({"batch_pairs": 9}, 2, r"train\.batch_pairs = 9 cannot be shared by 2 processes"),
        ({"crop_s": [0.2, 0.6]}, 1, r"train\.crop_s: 0\.6 s is more than the 0\.5 s of the pairs"),
        ({"batch_pairs": 71}, 1, r"train\.batch_pairs = 71 is more than the 70 pairs"),
    ],
)
def test_settings_that_the_shards_cannot_serve_are_refused(shards, changed, world, message):
    with pytest.raises(ValueError, match=message):
        Batches(PairIndex.read(shards, "train"), settings(**changed), world=world)


def test_a_clip_longer_than_the_pairs_is_refused(shards):
    with pytest.raises(ValueError, match=r"evaluate\.clip_s = 0\.6 s is more than the 0\.5 s"):
        next(read_pairs(shards, "valid", clip_s=0.6, batch_pairs=4))


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "render"))


def test_a_missing_or_damaged_index_is_named(copy):
    path = copy / "pairs.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"pairs\.parquet: missing or damaged .*dvc repro -f -s re"
    ):
        PairIndex.read(copy, "train")
    path.unlink()
    with pytest.raises(
        ValueError, match=r"pairs\.parquet: missing or damaged .*dvc repro -f -s re"
    ):
        PairIndex.read(copy, "train")


def test_an_index_that_lacks_pairs_is_named(copy):
    path = copy / "pairs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ValueError, match=r"does not list the pairs of train from 0 on; render"):
        PairIndex.read(copy, "train")


def test_a_missing_shard_is_named(copy):
    (copy / "train" / "000003.tar").unlink()
    with pytest.raises(ValueError, match=r"train/000003\.tar: this shard is missing; render again"):
        PairIndex.read(copy, "train")


@pytest.mark.parametrize("where", ["member", "anywhere"])
def test_a_cut_shard_is_named(copy, where):
    path = copy / "train" / "000003.tar"
    with tarfile.open(path) as tar:
        boundary = tar.getmembers()[6].offset
    with path.open("r+b") as file:
        file.truncate(boundary if where == "member" else boundary + 1000)
    with pytest.raises(ValueError, match=r"train/000003\.tar: this shard has \d+ bytes, must be"):
        PairIndex.read(copy, "train")


def test_a_shard_with_a_broken_member_is_named(copy):
    index = PairIndex.read(copy, "train")
    path = copy / "train" / "000003.tar"
    with path.open("r+b") as file:
        file.seek(index.offset[33, 1] - tarfile.BLOCKSIZE)
        file.write(bytes(tarfile.BLOCKSIZE))
    wanted = r"train/000003\.tar: this shard is damaged \('' stands in the place of 000000033\.posi"
    with pytest.raises(ValueError, match=wanted):
        take(Batches(index, settings(workers=1)), Batches(index, settings()).batches_an_epoch)
    with pytest.raises(
        ValueError, match=r"train/000003\.tar: this shard (is damaged|has \d of 10)"
    ):
        list(read_pairs(copy, "train", clip_s=0.5, batch_pairs=8))


def test_a_shard_that_is_cut_while_it_is_read_is_named(copy):
    index = PairIndex.read(copy, "train")
    with (copy / "train" / "000006.tar").open("r+b") as file:
        file.truncate(int(index.offset[60, 0]) + 50)
    with pytest.raises(ValueError, match=r"train/000006\.tar: this shard is damaged \(.*cut"):
        read_crop(index, 60, 0, np.empty((2, 100), dtype=np.int16))


def test_readers_end_with_the_loop_that_reads(shards):
    before = threading.active_count()
    stream = iter(Batches(PairIndex.read(shards, "train"), settings(workers=2)))
    next(stream)
    assert threading.active_count() > before
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("batches"):
            thread.join(timeout=10)
    assert threading.active_count() == before
