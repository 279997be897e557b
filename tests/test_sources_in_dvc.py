"""Sources as stages: only what changed runs; a pull from S3 brings back all but the archives."""

from __future__ import annotations

import json
import shutil

import miniatures
import pytest
import yaml
from test_servers import s3_server
from tiny_line import Line

PLAIN = {"PHALAR_ORCHESTRATOR": "none"}
STAGES = {
    "download@folder",
    "download@moisesdb",
    "prepare@folder",
    "prepare@moisesdb",
}


def name_source(values):
    """One source that lies on this disk, in the place of the embedded ones; a second is known."""
    values["sources"] = ["folder"]
    values["download"] |= {"folder": {"path": "mine"}, "moisesdb": {"path": "theirs"}}
    values["prepare"] |= {
        "folder": miniatures.ASKED,
        "moisesdb": miniatures.ASKED | {"split": "artist"},
    }
    values["render"]["weights"] = {"folder": 1.0, "moisesdb": 1.0}
    values["render"]["pair_s"] = {"train": 0.3, "valid": 0.3, "test": 0.3}


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


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Two sources that are prepared and rendered; the second came when the first was done."""
    line = Line(tmp_path_factory.mktemp("sources") / "line")
    line.change(name_source)
    write_music(line.folder)
    line.succeed("dvc", "repro", "prepare", **PLAIN)
    first = line.journal()
    assert set(first) == {"download@folder", "prepare@folder"}
    line.change(lambda values: values.update(sources=["folder", "moisesdb"]))
    line.succeed("dvc", "repro", "prepare", **PLAIN)
    assert line.ran_since(first) == {"download@moisesdb", "prepare@moisesdb"}
    return line


def due(line):
    """Stages of sources that DVC would run."""
    return STAGES & set(json.loads(line.succeed("dvc", "status", "--json", **PLAIN)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("sources/synth.py", set()),
        ("sources/chorales.py", set()),
        ("fingerprint.py", STAGES),
        ("sources/recorded.py", STAGES),
        ("sources/moisesdb.py", {"download@moisesdb", "prepare@moisesdb"}),
        ("prepare.py", {"prepare@folder", "prepare@moisesdb"}),
    ],
)
def test_a_changed_module_makes_again_what_needs_it(line, module, stages):
    path = line.folder / "phalar" / module
    before = path.read_text()
    path.write_text(before + "# another\n")
    assert due(line) == stages
    path.write_text(before)
    assert due(line) == set()


@pytest.mark.slow
def test_only_what_changed_runs_and_a_pull_brings_back_all_but_archives(tmp_path, line):
    line.succeed("dvc", "repro", "render", **PLAIN)
    first = line.journal()
    assert set(first) == STAGES | {"render"}

    line.succeed("dvc", "repro", "render", **PLAIN)
    assert line.ran_since(first) == set()

    line.change(lambda values: values["prepare"]["moisesdb"].update(max_s=0.4))
    line.succeed("dvc", "repro", "render", **PLAIN)
    assert line.ran_since(first) <= {"prepare@moisesdb", "render"}
    assert "prepare@moisesdb" in line.ran_since(first)

    outs = line.outs()
    with s3_server(tmp_path, "store") as found:
        line.succeed("dvc", "remote", "add", "--default", "store", "s3://store/phalar")
        line.succeed("dvc", "remote", "modify", "store", "endpointurl", found["AWS_ENDPOINT_URL"])
        line.succeed("dvc", "push", "--quiet")
        shutil.rmtree(line.folder / "data")
        shutil.rmtree(line.folder / ".dvc/cache")
        shutil.rmtree(line.folder / "mine")
        shutil.rmtree(line.folder / "theirs")
        line.succeed("dvc", "pull", "--quiet", "render", "prepare", "download")
    line.succeed("dvc", "repro", "render", **PLAIN)
    assert line.journal() == {}, "nothing ran"
    assert line.outs() == outs
    assert list((line.folder / "data/render/train").glob("*.tar"))
    assert sorted(p.name for p in (line.folder / "data/download/folder").iterdir()) == [
        "receipt.json"
    ]
    assert list((line.folder / "data/prepare/moisesdb").glob("train-*.parquet"))
