"""Parquet and shards on S3: a server on loopback, written by real stages and read by training."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import miniatures
import pytest
import torch
import yaml
from test_servers import s3_server
from tiny_render import checksums

from phalar import download, params, prepare, render, store, tracks
from phalar.train.batches import Batches, read_pairs
from phalar.train.shards import PairIndex

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
SPLITS = tracks.SPLITS


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A server with a bucket `music`; gives the environment that finds it."""
    with s3_server(tmp_path_factory.mktemp("s3"), "music") as environment:
        yield environment


def project(root: Path, uri: str | None) -> params.Params:
    """Write a user's folder of twelve tracks, and parameters that keep big files below `uri`."""
    about = {}
    for number in range(12):
        folder = root / "mine" / f"{number:02d}"
        folder.mkdir(parents=True)
        about[folder.name] = {"split": SPLITS[number % 3]}
        for stem in ("bass", "drums", "keys"):
            (folder / f"{stem}.wav").write_bytes(miniatures.wav((number, stem), 2.0))
    (root / "mine/tracks.yaml").write_text(yaml.safe_dump(about))
    miniatures.settings(root, "folder", download={"path": "mine"})
    path = root / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["prepare"]["store"] = uri and f"{uri}/prepare"
    raw["render"] |= {
        "store": uri and f"{uri}/render",
        "workers": 2,
        "pairs": {"train": 40, "valid": 8, "test": 8},
        "pair_s": {"train": 0.5, "valid": 0.5, "test": 0.5},
        "pairs_per_shard": 10,
        "trial_candidates": [2],
    }
    path.write_text(yaml.safe_dump(raw))
    return params.load(path)


def run(loaded: params.Params) -> None:
    download.run(loaded, "folder")
    prepare.run(loaded, "folder")
    render.run(loaded, loaded.paths)


def test_stages_write_to_s3_and_training_reads_the_same_from_there(tmp_path, s3):
    here, there = project(tmp_path / "here", None), project(tmp_path / "there", "s3://music/a")
    run(here)
    run(there)
    wanted = checksums(here.paths.prepare("folder")) | checksums(here.paths.render)
    found: dict[str, str] = {}
    for folder in (there.paths.prepare("folder"), there.paths.render):
        assert not [*folder.rglob("*.tar"), *folder.rglob("t*-*.parquet")]
        found |= {n: s for n, s in checksums(folder).items() if n != store.MANIFEST}
        remote = store.read_manifest(folder)
        assert {r.url.partition("/a/")[0] for r in remote.values()} == {"s3://music"}
        found |= {name: store.sum_of(entry) for name, entry in remote.items()}
    assert found == wanted

    settings = here.train.model_copy(update={"batch_pairs": 4, "crop_s": [0.2, 0.3], "workers": 2})
    both = [Batches(PairIndex.read(p.paths.render, "train"), settings) for p in (here, there)]
    for one, other in islice(zip(*both, strict=True), 25):
        assert torch.equal(one.pair, other.pair)
        assert torch.equal(one.wave, other.wave)
    streams = [read_pairs(p.paths.render, "test", clip_s=0.5, batch_pairs=5) for p in (here, there)]
    for one, other in zip(*streams, strict=True):
        assert torch.equal(one.wave, other.wave)

    # Nothing is uploaded a second time, and what was lost is.
    manifest = store.read_manifest(there.paths.render)
    lost = manifest["train/000001.tar"]
    store.open_store(lost.url).rm(lost.url)
    with pytest.raises(store.StoreError, match=r"s3://.*/000001-\w+\.tar: is missing in the store"):
        PairIndex.read(there.paths.render, "train")
    render.run(there, there.paths)
    assert store.read_manifest(there.paths.render) == manifest
    PairIndex.read(there.paths.render, "train")


READ = """
import sys
from pathlib import Path
from phalar import tracks
from phalar.store import StoreError
try:
    tracks.read_index(Path(sys.argv[1]), "train")
except StoreError as error:
    sys.exit(str(error))
"""


def said_to(folder: Path, environment: dict[str, str]) -> str:
    """What reading an index says in a process with this environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder)],
        env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_store_that_does_not_answer_is_told_in_one_line(tmp_path, s3):
    loaded = project(tmp_path / "there", "s3://music/b")
    download.run(loaded, "folder")
    prepare.run(loaded, "folder")
    folder = loaded.paths.prepare("folder")
    nobody = {n: v for n, v in s3.items() if "KEY" not in n} | {"AWS_EC2_METADATA_DISABLED": "true"}
    line = said_to(folder, nobody)
    assert "store refuses (Unable to locate credentials); set AWS_ACCESS_KEY_ID" in line
    line = said_to(folder, s3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert "the store does not answer (" in line
    assert "check the network and its address (AWS_ENDPOINT_URL" in line
    raw = yaml.safe_load((tmp_path / "there/params.yaml").read_text())
    raw["prepare"]["store"] = "s3://nowhere/b"
    (tmp_path / "there/params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(store.StoreError, match=r"s3://nowhere/b/folder/t.*\.parquet\.part: is not"):
        prepare.run(params.load(tmp_path / "there/params.yaml"), "folder")


def test_a_night_s_data_come_back_without_the_store_being_copied(tmp_path, s3):
    loaded = project(tmp_path / "there", "s3://music/c")
    run(loaded)
    # What DVC keeps of both stages: a few small files each.
    moved = tmp_path / "elsewhere"
    for folder in ("prepare", "render"):
        shutil.copytree(loaded.paths.root / folder, moved / folder)
    assert sum(p.stat().st_size for p in moved.rglob("*") if p.is_file()) < 100_000
    index = tracks.read_index(moved / "prepare/folder", "train")
    assert tracks.read_stems(index[0]).shape[0] == 3
    assert PairIndex.read(moved / "render", "train").pair.size == 40
