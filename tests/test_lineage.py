"""Lineage: every link is there, the counts agree, and records that contradict are refused."""

import hashlib
import io
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from phalar.lineage import collect as collecting
from phalar.lineage import draw
from phalar.lineage import record as records
from phalar.params import Paths
from phalar.tracks import SPLITS, read_index

SOURCE = "bands"


@pytest.fixture
def project(tmp_path, tiny_songs) -> Paths:
    return make_project(tmp_path, tiny_songs)


def make_project(folder, tiny_songs) -> Paths:
    """Make the records of download, prepare and render: two songs a split, three pairs a song."""
    paths = Paths(folder / "data")
    tiny_songs(paths.prepare(SOURCE), source=SOURCE, songs=2, seconds=1.0)
    pairs, files = [], {}
    for split in SPLITS:
        shard = f"{split}/000000.tar"
        (paths.render / split).mkdir(parents=True)
        (paths.render / shard).write_bytes(split.encode())
        for index in read_index(paths.prepare(SOURCE), split):
            files |= dict(index.source_files)
            row = {"split": split, "shard": shard, "source": SOURCE, "track": index.track}
            pairs += 3 * [row | {"song": index.song, "licence": index.licence}]
    pq.write_table(pa.Table.from_pylist(pairs), paths.render / "pairs.parquet")
    receipt = {
        "source": SOURCE,
        "params": {"version": "1"},
        "licence": "CC0-1.0",
        "credits": "A test",
        "files": [
            {"path": path, "url": f"pkg:pypi/made#{path}", "bytes": 1, "sha256": total}
            for path, total in files.items()
        ],
    }
    write_receipt(paths, receipt)
    return paths


def write_receipt(paths: Paths, receipt: dict) -> None:
    paths.download(SOURCE).mkdir(parents=True, exist_ok=True)
    (paths.download(SOURCE) / "receipt.json").write_text(json.dumps(receipt))


def collect(paths: Paths) -> records.Record:
    return collecting.collect(SimpleNamespace(sources=[SOURCE]), paths)


def test_every_link_is_there_and_counts_agree(project) -> None:
    record = collect(project)
    assert record["pairs"]["count"] == dict.fromkeys(SPLITS, 6)
    manifest = (project.render / "pairs.parquet").read_bytes()
    assert record["pairs"]["sha256"] == hashlib.sha256(manifest).hexdigest()
    for split in SPLITS:
        of_split = [
            sum(entry["pairs"] for entry in record[kind] if entry["split"] == split)
            for kind in ("shards", "tracks")
        ]
        assert of_split == [6, 6]
    assert record["shards"][0]["sha256"] == hashlib.sha256(b"train").hexdigest()
    files = {file["sha256"]: file for file in record["files"]}
    for track in record["tracks"]:
        (total,) = track["files"]
        assert files[total]["url"] == f"pkg:pypi/made#{track['track']}.mid"
    assert record["sources"][0]["licence"] == "CC0-1.0"


def test_lineage_does_not_name_the_machine(project) -> None:
    assert str(project.root.parent) not in json.dumps(collect(project))


def test_missing_shard_is_named(project) -> None:
    (project.render / "test/000000.tar").unlink()
    with pytest.raises(ValueError, match=r"test/000000\.tar is in pairs\.parquet but not on disk"):
        collect(project)


def test_track_that_prepare_does_not_know_is_named(project) -> None:
    path = project.render / "pairs.parquet"
    table = pq.read_table(path)
    renamed = table.set_column(3, "track", pa.array(["other"] * table.num_rows))
    pq.write_table(renamed, path)
    with pytest.raises(ValueError, match="bands/other gave pairs but is not in prepare's parquet"):
        collect(project)


def test_damaged_parquet_is_named(project) -> None:
    for path in (project.prepare(SOURCE) / "train-00000.parquet", project.render / "pairs.parquet"):
        path.write_bytes(b"PAR1")
        with pytest.raises(ValueError, match=f"{path.name}: missing or damaged"):
            collect(project)


def test_split_that_differs_is_named(project) -> None:
    path = project.render / "pairs.parquet"
    table = pq.read_table(path)
    moved = table.set_column(0, "split", pa.array(["test"] * table.num_rows))
    pq.write_table(moved, path)
    with pytest.raises(ValueError, match=r"split is 'test' in pairs\.parquet and 'train' in"):
        collect(project)


def test_file_without_receipt_is_named(project) -> None:
    receipt = json.loads((project.download(SOURCE) / "receipt.json").read_text())
    receipt["files"][0]["sha256"] = "0" * 64
    write_receipt(project, receipt)
    with pytest.raises(ValueError, match=r"bands: tracks were made from .*\.mid .* run download"):
        collect(project)


def test_dvc_lock_is_compared_with_the_disk(project) -> None:
    root = project.root.parent
    size = sum(file.stat().st_size for file in project.render.rglob("*") if file.is_file())
    lock = f"""
schema: '2.0'
stages:
  render:
    outs: [{{path: data/render, md5: aa.dir, size: {size}, nfiles: 4}}]
  prepare@bands:
    outs: [{{path: data/prepare/bands, md5: bb.dir, size: 1, nfiles: 3}}]
  register:
    outs: [{{path: data/register, md5: cc.dir, size: 1, nfiles: 1}}]
"""
    (root / "dvc.lock").write_text(lock)
    outs = {out["stage"]: out for out in collecting.dvc_outs(root)["outs"]}
    assert set(outs) == {"render", "prepare@bands"}
    assert (outs["render"]["md5"], outs["render"]["agrees"]) == ("aa.dir", True)
    assert not outs["prepare@bands"]["agrees"]


def test_tree_names_every_link(project, tmp_path) -> None:
    record = collect(project) | {
        "format": records.FORMAT,
        "model": {"name": "phalar", "version": "3", "sha256": "ab" * 32},
        "run": {"id": "run1", "experiment": "phalar"},
        "git": {"commit": "c" * 40, "dirty": True},
        "params": {"train": {"steps": 4, "seed": 1}},
    }
    path = tmp_path / records.FILE
    path.write_text(json.dumps(record))
    console = Console(width=200, file=io.StringIO())
    console.print(draw.tree(records.read(str(path))))
    text = console.file.getvalue()
    for words in (
        "model phalar version 3, sha256 abab",
        "MLflow run run1",
        "git commit cccccccccccc, with changes",
        "train: 6 pairs in 1 shards",
        "bands: 6 tracks (train 2, valid 2, test 2), CC0-1.0",
        "pkg:pypi/made#test-0.mid",
        "... 3 more tracks, 6 files in all",
    ):
        assert words in text


def test_what_is_no_lineage_is_refused(tmp_path) -> None:
    path = tmp_path / records.FILE
    with pytest.raises(ValueError, match="no such file; run the register stage"):
        records.read(str(path))
    for text, why in (
        ("[]", "not a lineage record"),
        ("{", "not a lineage"),
        ("{}", "format None"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            records.read(str(path))
