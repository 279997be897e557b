"""Verify: what is whole is right, and each thing that is changed, gone or dirty is named."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from registered import Project
from test_lineage import SOURCE

from phalar import cli, withdrawn
from phalar.lineage import record, verify_files
from phalar.lineage.check import RIGHT, UNKNOWN, WRONG, Check
from phalar.lineage.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_songs) -> Project:
    """A registered model whose source files, shards and tables are all there."""
    project = Project(tmp_path_factory.mktemp("whole"), tiny_songs)
    receipt = json.loads((project.paths.download(SOURCE) / "receipt.json").read_text())
    for file in receipt["files"]:
        # The made songs name as checksum that of their own name.
        path = project.paths.download(SOURCE) / file["path"]
        path.write_text(path.stem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", project.uri)
        project.register(1)
        project.register(2, dirty=True)
        yield project


@pytest.fixture
def project(whole, tmp_path, monkeypatch):
    """A copy that may be damaged; the registry's files stay where they are."""
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)
    monkeypatch.chdir(folder)
    return folder


def check(project: Path, name: str = "phalar/1") -> list[Check]:
    return verify(record.read(name), record_paths(project))


def record_paths(project: Path):
    from phalar.params import Paths

    return Paths(project / "data")


def wrong(project: Path, name: str = "phalar/1") -> list[str]:
    return [f"{c.link}: {c.what}" for c in check(project, name) if c.state == WRONG]


def test_what_is_whole_is_right(project) -> None:
    states = {each.link: each.state for each in check(project)}
    assert states.pop("dvc.lock") == states.pop("dvc.lock, kept") == UNKNOWN
    assert set(states.values()) == {RIGHT}
    assert {
        "model version",
        "weights",
        "lineage",
        "tracks.parquet, kept",
        "MLflow run",
        "commit",
        "parameters",
        "shards",
        "pairs",
        "prepared parquet",
        "source files",
        "pairs and tracks",
    } == set(states)


def test_changed_files_are_named(project) -> None:
    for name in ("render/test/000000.tar", "prepare/bands/valid-00000.parquet"):
        path = project / "data" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    (project / "data/download/bands/train-1.mid").write_text("another")
    (project / "data/render/train/000000.tar").unlink()
    found = wrong(project)
    assert [line.partition(" has")[0] for line in found] == [
        "shards: data/render/train/000000.tar is missing",
        "shards: data/render/test/000000.tar",
        "prepared parquet: data/prepare/bands/valid-00000.parquet",
        "source files: data/download/bands/train-1.mid",
    ]


def test_changed_pairs_are_named_with_the_track(project) -> None:
    path = project / "data/render/pairs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    found = wrong(project)
    assert "pairs: data/render/pairs.parquet has not SHA-256" in found[0]
    assert found[1].startswith("pairs and tracks: bands/train-0: 2 train pairs")
    assert found[2].endswith("train/000000.tar: 5 pairs in the table")


def test_dirty_tree_is_named(project) -> None:
    assert wrong(project, "phalar/2")[0].startswith("commit: the tree was dirty")


def test_parameters_that_are_not_the_commits_are_named(project) -> None:
    found = record.read("phalar/1")
    found["params"]["train"]["steps"] += 1
    states = {c.link: c for c in verify(found, record_paths(project))}
    assert states["parameters"].what == "not those of the commit: train"
    assert states["lineage"].state == WRONG


def test_what_is_not_here_cannot_be_checked(project) -> None:
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".git")
    states = {each.link: each.state for each in check(project)}
    assert WRONG not in states.values()
    assert states["shards"] == states["commit"] == states["source files"] == UNKNOWN


def test_withdrawn_track_is_named(project) -> None:
    withdrawn.add(project, "bands/train-0", withdrawn.Withdrawal("asked", "2026-01-01"))
    withdrawn.add(project, "bands/else", withdrawn.Withdrawal("asked", "2026-01-01"))
    (found,) = wrong(project)
    assert found.startswith("withdrawn: bands/train-0 (train) is withdrawn: asked")


def test_data_of_another_run_is_told_from_changed_data(project) -> None:
    found = record.read("phalar/1")
    md5 = "0" * 32 + ".dir"
    out = {"stage": "render", "path": "data/render", "md5": md5, "agrees": True}
    found["dvc"]["outs"] = [out]

    def lock(total: str) -> None:
        stages = {"render": {"outs": [{"path": "data/render", "md5": total}]}}
        (project / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))

    lock(md5)
    states = {c.link: c for c in verify_files.checks(found, record_paths(project))}
    assert states["dvc.lock, render"].state == WRONG
    lock("1" * 32 + ".dir")
    states = {c.link: c.state for c in verify_files.checks(found, record_paths(project))}
    assert states["shards"] == states["pairs and tracks"] == UNKNOWN
    assert states["prepared parquet"] == RIGHT


def test_hash_of_a_folder_is_that_of_dvc(project) -> None:
    from dvc.repo import Repo

    shutil.rmtree(project / ".dvc", ignore_errors=True)
    repo = Repo.init(str(project), no_scm=True)
    (stage,) = repo.add(str(project / "data/render"))
    md5 = stage.outs[0].hash_info.value
    folder = project / "data/render"
    (folder / "unfinished.part").write_text("")
    sums = verify_files._sums({path: path for path in verify_files._files(folder)})
    assert verify_files._md5(folder, sums) == md5


def test_registry_that_lost_things_is_named(project, whole, tmp_path, monkeypatch, capsys) -> None:
    import mlflow

    client = mlflow.MlflowClient(whole.uri)
    version = client.get_model_version("phalar", "1")
    artifacts = whole.folder / "mlartifacts"
    weights = next(path for path in artifacts.rglob("model.safetensors"))
    document = artifacts / version.run_id / "artifacts/version-1/lineage.json"
    kept = {path: path.read_bytes() for path in artifacts.rglob("model.safetensors")}
    text = document.read_text()
    tracks = document.with_name("tracks.parquet")
    listed = tracks.read_bytes()
    found = record.read("phalar/1")

    def lines() -> list[str]:
        return [c.what for c in verify(found, record_paths(project)) if c.state == WRONG]

    try:
        for path in kept:
            path.write_bytes(kept[path][:-1] + b"\0\0")
        document.write_text(text.replace('"count"', '"counts"'))
        assert ["it was changed" in lines()[0], "was changed since" in lines()[1]] == [True, True]
        for path in kept:
            path.unlink()
        document.unlink()
        assert "model.safetensors" in lines()[0] or "gone" in lines()[0]
        assert "version-1/lineage.json is gone" in lines()[1]
        tracks.write_bytes(b"others")
        assert re.search(r"version-1/tracks.parquet has SHA-256 \w+: it was changed", lines()[2])
        tracks.unlink()
        found["dvc"]["lock_sha256"] = "0" * 64
        gone = ["version-1/dvc.lock is gone", "version-1/tracks.parquet is gone"]
        assert [line.partition(" from")[0] for line in lines()[2:]] == gone
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
        document.write_text(text)
        tracks.write_bytes(listed)
        found["dvc"]["lock_sha256"] = None
    assert weights.is_file()
    client.delete_run(version.run_id)
    try:
        assert lines() == [f"{version.run_id} was deleted"]
        client.delete_model_version("phalar", "1")
        assert lines()[0].startswith("phalar/1 is not in the registry")
    finally:
        client.restore_run(version.run_id)


def test_command_verifies_and_draws(project, monkeypatch, capsys) -> None:
    def call(words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(words.split())
        return stop.value.code, capsys.readouterr().out

    code, out = call("lineage phalar/2 --verify --json")
    report = json.loads(out)
    assert (code, report["counts"][WRONG]) == (1, 1)
    code, out = call("lineage phalar/2 --verify")
    assert (code, "1 wrong" in out) == (1, True)
    code, out = call("lineage phalar/2 --mermaid")
    assert (code, out.splitlines()[0]) == (0, "flowchart LR")
    assert "model --> run" in out
    code, _ = call("lineage phalar/2 --svg chain.svg")
    assert code == 0
    assert Path("chain.svg").read_text().count("<rect") == 11
    weights = Path("data/train/model.safetensors")
    assert call(f"lineage {weights} --json")[1] == call("lineage phalar/2 --json")[1]
    run = json.loads(call("lineage phalar/2 --json")[1])["run"]["id"]
    assert json.loads(call(f"lineage {run} --json")[1])["model"]["version"] == "2"
