"""An object store: what lies there is whole, reads as if it lay here, and says what it lacks."""

from __future__ import annotations

import errno
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lineage import make_project
from tiny_render import checksums, noise_track, prepare, tiny_params

from phalar import publish, render, store, tracks
from phalar.lineage import trace, verify_files
from phalar.lineage.check import RIGHT, WRONG
from phalar.lineage.collect import collect
from phalar.params import Params, Paths
from phalar.train.batches import Batches, read_pairs
from phalar.train.shards import PairIndex, read_crops

SPLITS = tracks.SPLITS


def params_of(**changed) -> Params:
    return tiny_params(render={"pairs": {"train": 40, "valid": 8, "test": 16}, **changed})


@pytest.fixture(scope="module", params=["wav", "flac"])
def rendered(request, tmp_path_factory) -> tuple[Paths, Params]:
    """Shards on this disk, of either container."""
    paths = Paths(tmp_path_factory.mktemp("here"))
    made = [noise_track(f"{split}-{n}", split=split) for split in SPLITS for n in range(8)]
    prepare(paths.prepare("bands"), made)
    params = params_of(container=request.param)
    render.run(params, paths)
    return paths, params


@pytest.fixture(params=["file", "memory"])
def uri(request, tmp_path) -> str:
    """A store with folders, and one without."""
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path}/store"


def stored(root: Path, rendered: tuple[Paths, Params], uri: str) -> tuple[Paths, Params]:
    """Parquet and shards of the same music in a store."""
    there = Paths(root / "project")
    folder = there.prepare("bands")
    shutil.copytree(rendered[0].prepare("bands"), folder)
    names = [path.name for path in sorted(folder.glob("*.parquet"))]
    for remote in publish.publish(folder, names, f"{uri}/prepare", "prepare bands"):
        (folder / remote.name).unlink()
    container = rendered[1].render.container
    params = params_of(container=container, store=f"{uri}/render")
    render.run(params, there)
    return there, params


def test_what_is_read_from_a_store_is_what_is_read_from_here(tmp_path, rendered, uri):
    here, params = rendered
    there, _ = stored(tmp_path, rendered, uri)
    assert not list(there.root.rglob("*.tar"))
    tables = {"pairs.parquet", "report.json", "trials.parquet"}
    wanted = checksums(here.render)
    found = checksums(there.render)
    assert set(found) == tables | {store.MANIFEST}
    assert {name: found[name] for name in tables} == {name: wanted[name] for name in tables}
    remote = store.read_manifest(there.render)
    shards = {name: total for name, total in wanted.items() if name.endswith(".tar")}
    assert {name: entry.sha256 for name, entry in remote.items()} == shards
    assert {name: store.sum_of(entry) for name, entry in remote.items()} == shards

    settings = params.train.model_copy(
        update={"batch_pairs": 4, "crop_s": [0.2, 0.3], "workers": 2}
    )
    both = [Batches(PairIndex.read(p.render, "train"), settings) for p in (here, there)]
    for one, other in islice(zip(*both, strict=True), 25):
        assert torch.equal(one.pair, other.pair)
        assert torch.equal(one.wave, other.wave)
    for split in SPLITS:
        streams = [
            read_pairs(p.render, split, clip_s=0.4, batch_pairs=7, wanted=np.arange(1, 8, 3))
            for p in (here, there)
        ]
        for one, other in zip(*streams, strict=True):
            assert torch.equal(one.wave, other.wave)


def test_a_crop_asks_for_its_own_bytes_and_no_others(tmp_path, rendered, monkeypatch):
    there, params = stored(tmp_path, rendered, f"file://{tmp_path}/store")
    index = PairIndex.read(there.render, "train")
    asked = []
    read = store.read_ranges
    monkeypatch.setattr(
        store, "read_ranges", lambda wanted: (asked.append(wanted), read(wanted))[1]
    )
    out = np.empty((2, 2, 100), np.int16)
    read_crops(index, np.array([3, 11]), np.array([0, 40]), out)
    (wanted,) = asked
    sizes = [end - start for _, start, end in wanted]
    if params.render.container == "wav":
        assert sizes == [512 + 44 + 200] * 2 + [512 + 44 + 280] * 2
    else:
        assert sizes == [512 + size for size in index.bytes[[3, 11]].ravel()]


def test_a_killed_upload_leaves_nothing_that_looks_whole_and_goes_on(tmp_path, monkeypatch):
    folder, uri = tmp_path / "folder", f"file://{tmp_path}/store"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.tar").write_bytes(name.encode() * 1000)
    names = [f"{name}.tar" for name in "abcd"]
    puts = []
    system = type(store.open_store(uri))
    put = system.put_file

    def dying(self, here, there, **named):
        puts.append(here)
        if len(puts) >= 3:
            Path(there.removeprefix("file://")).write_bytes(b"c" * 400)
            raise OSError(errno.EPIPE, "Broken pipe")
        put(self, here, there, **named)

    monkeypatch.setattr(publish, "UPLOADS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", dying)
        with pytest.raises(store.StoreError, match=r"c-\w+\.tar\.part: the store does not answer"):
            publish.publish(folder, names, uri, "render")
    assert not (folder / store.MANIFEST).exists()
    assert not [p for p in (tmp_path / "store").glob("*.tar") if p.stat().st_size != 1000]
    puts.clear()
    monkeypatch.setattr(system, "put_file", lambda *a, **n: (puts.append(a[1]), put(*a, **n)))
    remotes = publish.publish(folder, names, uri, "render")
    assert [Path(path).name for path in puts] == ["c.tar", "d.tar"]
    assert [store.sum_of(remote) for remote in remotes] == [r.sha256 for r in remotes]
    assert len(list((tmp_path / "store").iterdir())) == 4


def test_an_upload_that_arrives_wrong_is_not_given_its_name(tmp_path, monkeypatch):
    folder, uri = tmp_path / "folder", f"file://{tmp_path}/store"
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"a" * 1000)
    system = type(store.open_store(uri))

    def garbling(self, here, there, **named):
        Path(there.removeprefix("file://")).write_bytes(b"b" * 1000)

    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", garbling)
        with pytest.raises(
            store.StoreError, match=r"a-\w+\.tar\.part: has other bytes than .*a\.t"
        ):
            publish.publish(folder, ["a.tar"], uri, "render")
    assert not list((tmp_path / "store").glob("*.tar"))
    publish.publish(folder, ["a.tar"], uri, "render")
    assert len(list((tmp_path / "store").glob("*.tar"))) == 1


def test_another_render_overwrites_nothing(tmp_path, rendered):
    there, params = stored(tmp_path, rendered, f"file://{tmp_path}/store")
    before = store.read_manifest(there.render)
    settings = params.render.model_copy(update={"seed": 2})
    render.run(params.model_copy(update={"render": settings}), there)
    after = store.read_manifest(there.render)
    assert not {r.url for r in before.values()} & {r.url for r in after.values()}
    store.check(list(before.values()))


def test_faults_of_a_store_are_named_with_the_remedy(tmp_path, rendered, monkeypatch):
    there, _ = stored(tmp_path, rendered, f"file://{tmp_path}/store")
    remote = store.read_manifest(there.render)
    shard = remote["train/000001.tar"]
    path = Path(shard.url.removeprefix("file://"))
    content = path.read_bytes()

    path.unlink()
    with pytest.raises(store.MissingError, match=r"000001-\w+\.tar: is not in the store; bring"):
        store.sum_of(shard)
    with pytest.raises(store.StoreError, match=rf"{path}: is missing in the store, must have \d+"):
        PairIndex.read(there.render, "train")
    path.write_bytes(content[:-512])
    with pytest.raises(store.StoreError, match=r"tar: has \d+ bytes, must have \d+; bring it back"):
        PairIndex.read(there.render, "train")
    with pytest.raises(store.StoreError, match=r"tar: is shorter than the \d+ bytes of the manif"):
        store.sum_of(shard)
    path.write_bytes(content)
    index = PairIndex.read(there.render, "train")
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(ValueError, match=r"000001-\w+\.tar: this shard is damaged .* render again"):
        read_crops(index, np.array([12]), np.array([0]), np.empty((1, 2, 9), np.int16))

    parquet = store.find(there.prepare("bands"), "test-*.parquet")[0]
    Path(parquet.url.removeprefix("file://")).write_bytes(b"\0" * parquet.bytes)
    with pytest.raises(ValueError, match=r"test-00000-\w+\.parquet: damaged"):
        tracks.read_index(there.prepare("bands"), "test")
    Path(parquet.url.removeprefix("file://")).unlink()
    with pytest.raises(store.StoreError, match=r"test-00000-\w+\.parquet: is not in the store"):
        tracks.read_index(there.prepare("bands"), "test")

    manifest = there.render / store.MANIFEST
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(ValueError, match=r"stored\.json: damaged .*dvc checkout"):
        PairIndex.read(there.render, "train")


def test_a_store_that_is_none_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(b"a")
    with pytest.raises(
        store.StoreError, match=r"xyz://b: no such kind of store \(Protocol not kno"
    ):
        publish.publish(tmp_path, ["a.tar"], "xyz://b/c", "render")

    def absent(root):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.url_to_fs", absent)
    with pytest.raises(
        store.StoreError, match=r"Install s3fs to access S3; `pip install 'phalar\["
    ):
        publish.publish(tmp_path, ["a.tar"], "s3://b/c", "render")


def test_lineage_names_what_lies_in_a_store_and_verifies_it_there(tmp_path, tiny_songs):
    paths = make_project(tmp_path / "project", tiny_songs)
    here = collect(tiny_params(), paths)
    for folder, pattern in ((paths.render, "*/*.tar"), (paths.prepare("bands"), "*.parquet")):
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]
        for remote in publish.publish(folder, names, f"file://{tmp_path}/store", folder.name):
            (folder / remote.name).unlink()
    found = collect(tiny_params(), paths)
    for kind in ("shards", "prepared"):
        plain = [{k: v for k, v in e.items() if k not in ("name", "url")} for e in found[kind]]
        assert plain == here[kind]
        assert all(entry["url"].startswith(f"file://{tmp_path}/store/") for entry in found[kind])
    assert found["tracks"] == here["tracks"]
    assert len(trace.search_render(paths, trace.Wanted(licence="CC0-1.0"))) == 6

    def states() -> dict[str, str]:
        return {check.link: check.state for check in verify_files.checks(found, paths)}

    assert states()["shards"] == states()["prepared parquet"] == RIGHT
    train = sorted((tmp_path / "store").glob("train-*.parquet"))[0]
    train.write_bytes(train.read_bytes()[:-1] + b"x")
    assert states()["prepared parquet"] == WRONG
    (tmp_path / "store/test").rename(tmp_path / "gone")
    assert states()["shards"] == WRONG


@pytest.mark.parametrize("address", ["bucket/folder", "s3://bucket/", ""])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="store"):
        tiny_params(render={"store": address})


def test_the_manifest_says_where_each_file_lies(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/000000.tar").write_bytes(b"sound")
    publish.publish(tmp_path, ["train/000000.tar"], f"file://{tmp_path}/store", "render")
    (entry,) = json.loads((tmp_path / store.MANIFEST).read_text())
    digits = entry["sha256"][: publish.HASH_DIGITS]
    assert entry["url"] == f"file://{tmp_path}/store/train/000000-{digits}.tar"
    assert (entry["name"], entry["bytes"]) == ("train/000000.tar", 5)
