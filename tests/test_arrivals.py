"""What arrives in a folder of one's own is seen: new, gone, longer, changed; and nothing else."""

from __future__ import annotations

import os
import shutil
import time

import miniatures
import pytest

from flows import arrivals
from phalar import download
from phalar.params import Params


@pytest.fixture
def params(tmp_path) -> Params:
    """A source `folder` that was downloaded."""
    music = tmp_path / "music"
    for track in ("one", "two"):
        for stem in ("bass", "drums"):
            path = music / track / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(miniatures.wav((track, stem), 0.1))
    (music / "tracks.yaml").write_text("one: {split: train}\n")
    found = miniatures.settings(tmp_path / "project", "folder", download={"path": str(music)})
    download.run(found, "folder")
    return found


def later(path) -> None:
    """Date a file after the receipt, as an edit does."""
    os.utime(path, (time.time() + 60,) * 2)


def test_nothing_has_arrived(params, tmp_path) -> None:
    assert arrivals.stages(params) == []
    later(tmp_path / "music/one/bass.wav")  # touched, with the same bytes
    (tmp_path / "music/one/.hidden").write_text("of an editor")
    assert arrivals.stages(params) == []
    arrivals.take_in(params)
    assert download.read_receipt(params.paths.download("folder"))


@pytest.mark.parametrize("what", ["new", "gone", "longer", "changed"])
def test_what_arrived_is_downloaded(params, tmp_path, what) -> None:
    music = tmp_path / "music"
    if what == "new":
        shutil.copytree(music / "two", music / "three")
    elif what == "gone":
        shutil.rmtree(music / "two")
    elif what == "longer":
        (music / "two/bass.wav").write_bytes(miniatures.wav("other", 0.2))
    else:
        (music / "tracks.yaml").write_text("one: {split: valid}\n")
        later(music / "tracks.yaml")
    assert arrivals.stages(params) == ["download@folder"]
    arrivals.take_in(params)
    assert not (params.paths.download("folder") / "receipt.json").exists()
    download.run(params, "folder")
    receipt = download.read_receipt(params.paths.download("folder"))
    tracks = {file["path"].split("/")[1] for file in receipt["files"]} - {"tracks.yaml"}
    assert tracks == {"new": {"one", "two", "three"}, "gone": {"one"}}.get(what, {"one", "two"})
    if what == "changed":
        os.utime(music / "tracks.yaml")
    assert arrivals.stages(params) == []


def test_without_folder_source_or_receipt_dvc_decides_alone(params, tmp_path) -> None:
    (tmp_path / "music").rename(tmp_path / "away")
    assert arrivals.stages(params) == []
    (tmp_path / "away").rename(tmp_path / "music")
    (params.paths.download("folder") / "receipt.json").unlink()
    assert arrivals.stages(params) == []
    other = params.model_copy(update={"sources": ["chorales"]})
    assert arrivals.stages(other) == []
