"""Withdrawn tracks: render leaves them out, and a list that cannot be read stops it."""

import shutil

import pytest
from tiny_render import ROOT, checksums, noise_track, prepare, tiny_params

from phalar import render, withdrawn
from phalar.params import Paths
from phalar.render.pairs import plan
from phalar.tracks import SPLITS
from phalar.withdrawn import Withdrawal


@pytest.fixture
def paths(tmp_path) -> Paths:
    """Three prepared songs a split."""
    made = [noise_track(f"{split}-{n}", split=split) for split in SPLITS for n in range(3)]
    found = Paths(tmp_path / "data")
    prepare(found.prepare("bands"), made)
    return found


def drawn(paths: Paths, split: str) -> set[str]:
    pairs = plan(tiny_params(), paths, split)
    return {pairs.tracks[row].track for row in pairs.rows["track"]}


def test_a_withdrawn_track_gives_no_pair_and_others_do(paths) -> None:
    assert "train-1" in drawn(paths, "train")
    withdrawn.add(
        paths.root.parent, "bands/train-1", Withdrawal("asked; in a – letter", "2026-01-01")
    )
    withdrawn.add(paths.root.parent, "other/train-0", Withdrawal("asked", "2026-01-01"))
    assert drawn(paths, "train") == {"train-0", "train-2"}
    assert withdrawn.read(paths.root.parent)["bands/train-1"].reason == "asked; in a – letter"


def test_the_bytes_are_those_of_a_project_without_the_list(paths) -> None:
    """As of tracks that were never prepared; and the list of this project withdraws nothing."""
    render.run(tiny_params(), paths)
    before = checksums(paths.render)
    shutil.copy(ROOT / "withdrawn.yaml", paths.root.parent)
    assert withdrawn.read(paths.root.parent) == {}
    render.run(tiny_params(), paths)
    assert checksums(paths.render) == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {track: bands/a, date: 2026-01-01}", "damaged .'reason'.; must be a list of track"),
        ("tracks: [", "damaged"),
        ("- bands/a", "damaged"),
        ("- {track: a, reason: b, date: c}", "track 'a' must be SOURCE/TRACK"),
    ],
)
def test_a_list_that_cannot_be_read_stops_the_render(paths, text, why) -> None:
    (paths.root.parent / withdrawn.FILE).write_text(text)
    with pytest.raises(ValueError, match=why):
        plan(tiny_params(), paths, "train")
