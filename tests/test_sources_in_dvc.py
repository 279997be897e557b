"""Sources as stages: only what changed runs, and a pull brings back all but the archives."""

from __future__ import annotations

import shutil

import miniatures
import pytest
import yaml
from tiny_line import Line

PLAIN = {"PHALAR_ORCHESTRATOR": "none"}
STAGES = {
    "download@folder",
    "download@moisesdb",
    "prepare@folder",
    "prepare@moisesdb",
}


def name_sources(values):
    """Two sources that lie on this disk, in the place of the embedded ones."""
    values["sources"] = ["folder", "moisesdb"]
    values["download"] |= {"folder": {"path": "mine"}, "moisesdb": {"path": "theirs"}}
    values["prepare"] |= {
        "folder": miniatures.ASKED,
        "moisesdb": miniatures.ASKED | {"split": "artist"},
    }
    values["render"]["weights"] = {"folder": 1.0, "moisesdb": 1.0}


def write_music(folder):
    about = {}
    for split in ("train", "valid", "test"):
        (folder / "mine" / split).mkdir(parents=True)
        about[split] = {"split": split}
        for stem in ("bass", "drums"):
            content = miniatures.wav((split, stem))
            (folder / "mine" / split / f"{stem}.wav").write_bytes(content)
    (folder / "mine" / "tracks.yaml").write_text(yaml.safe_dump(about))
    miniatures.moisesdb(folder / "theirs", [(f"artist {n}", f"song {n}") for n in range(12)])


@pytest.mark.slow
def test_only_what_changed_runs_and_a_pull_brings_back_all_but_archives(tmp_path):
    line = Line(tmp_path / "line")
    line.change(name_sources)
    write_music(line.folder)
    line.succeed("dvc", "repro", "prepare", **PLAIN)
    first = line.journal()
    assert set(first) == STAGES

    line.succeed("dvc", "repro", "prepare", **PLAIN)
    assert line.ran_since(first) == set()

    line.change(lambda values: values["prepare"]["moisesdb"].update(max_s=0.25))
    line.succeed("dvc", "repro", "prepare", **PLAIN)
    assert line.ran_since(first) == {"prepare@moisesdb"}

    outs = line.outs()
    line.succeed("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    line.succeed("dvc", "push", "--quiet")
    shutil.rmtree(line.folder / "data")
    shutil.rmtree(line.folder / ".dvc/cache")
    shutil.rmtree(line.folder / "mine")
    shutil.rmtree(line.folder / "theirs")
    line.succeed("dvc", "pull", "--quiet", "prepare", "download")
    line.succeed("dvc", "repro", "prepare", **PLAIN)
    assert line.journal() == {}, "nothing ran"
    assert line.outs() == outs
    assert sorted(p.name for p in (line.folder / "data/download/folder").iterdir()) == [
        "receipt.json"
    ]
    assert list((line.folder / "data/prepare/moisesdb").glob("train-*.parquet"))
