"""DVC's hashes of the data, from a lock file that DVC wrote, and where it is of other data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from phalar import dvclock
from phalar.params import Paths

SHA256 = "5" * 64


def lock_by_dvc(project: Path) -> dict[str, str]:
    """Have DVC itself write dvc.lock for `data/prepare` and `data/render`; give their hashes."""
    stage = {"cmd": "true", "deps": ["data/prepare"], "outs": ["data/render"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"render": stage}}))
    for words in ("init --no-scm --quiet", "commit --force --quiet"):
        subprocess.run(
            [sys.executable, "-m", "dvc", *words.split()],
            cwd=project,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            check=True,
        )
    entry = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["render"]
    return {known["path"]: known["md5"] for known in entry["deps"] + entry["outs"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project whose lock file DVC wrote."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("prepare/bands/train.parquet", "render/train/0.tar", "render/pairs.parquet"):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert set(lock_by_dvc(folder)) == {"data/prepare", "data/render"}
    return folder


def test_data_are_named_by_the_hashes_that_dvc_wrote(project):
    entry = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["render"]
    hashes = {known["path"]: known["md5"] for known in entry["deps"] + entry["outs"]}
    (render, prepare), told = dvclock.data_sets(project, Paths(project / "data"), SHA256)
    assert told == render.digest == hashes["data/render"]
    assert render.digest.endswith(".dir") and len(render.digest) == 36
    assert (render.name, render.context) == ("render", "training")
    assert (prepare.name, prepare.context) == ("prepare", "source")
    assert prepare.digest == hashes["data/prepare"] != render.digest
    assert prepare.folder == project / "data/prepare"


def unknown(project: Path, paths: Paths) -> str:
    """Say why DVC's hash is not known; our own then stands in its place."""
    (render,), told = dvclock.data_sets(project, paths, SHA256)
    assert (render.digest, render.folder) == (SHA256, paths.render)
    return told


def test_other_data_than_those_of_the_lock_get_no_hash_of_it(project, tmp_path):
    paths = Paths(project / "data")
    extra = paths.render / "train/1.tar"
    extra.write_text("rendered by hand")
    assert (
        unknown(project, paths)
        == "none: dvc.lock is of another render than the one that lies there"
    )
    extra.unlink()
    assert dvclock.data_sets(project, paths, SHA256)[1].endswith(".dir")
    elsewhere = Paths(tmp_path / "data")
    assert (
        unknown(project, elsewhere)
        == "none: dvc.lock is of data/render, and the data lie elsewhere"
    )
    assert unknown(tmp_path, elsewhere) == "none: there is no dvc.lock"
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    assert unknown(tmp_path, elsewhere) == "none: dvc.lock lists no render"
