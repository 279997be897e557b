"""An index outlives faults that may pass: full and missing disks, files that come and go."""

import errno
import os
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from phalar.model import ModelConfig, Phalar, build_model
from phalar.search import Searcher, Wanted, build, check, codes, hear, info, open_index, store
from phalar.search.windows import Grid

RATE_HZ = 16_000
GRID = Grid(window_s=1.0, hop_s=0.5)


@pytest.fixture(scope="module")
def model() -> Phalar:
    return build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


def write(path: Path, seed: int, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE_HZ))
    soundfile.write(path, sound, RATE_HZ)


def update(library: Path, model: Phalar, folder: Path | None = None, **how: bool) -> build.Built:
    asked = {"how": build.How(**how)} if how else {}
    folder = folder or library / ".phalar"
    return build.update(
        library, folder, model, model_name="m", model_sha256="m", grid=GRID, **asked
    )


@pytest.fixture(scope="module")
def heard(tmp_path_factory, model) -> Path:
    """Three files in two folders, and their index."""
    root = tmp_path_factory.mktemp("faults") / "stems"
    for seed, name in enumerate(["a.wav", "sub/b.wav", "sub/c.wav"]):
        write(root / name, seed)
    update(root, model)
    return root


@pytest.fixture
def library(heard, tmp_path) -> Path:
    return Path(shutil.copytree(heard, tmp_path / "stems"))


def entries(index: Path) -> dict[str, store.Entry]:
    return {entry.path: entry for entry in open_index(index).entries}


@contextmanager
def limited(most_bytes: int):
    """Let no file of this process grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing_below(folder: Path):
    """List folders as `os.scandir` does, but for one whose disk fails."""
    scandir = os.scandir

    def listing(place: str = "."):
        if os.fspath(place) == os.fspath(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(folder))
        return scandir(place)

    return listing


def make_unreadable(path: Path) -> None:
    """Replace a file by one that is there and has a size, and whose bytes cannot be read."""
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/mem")


def test_a_full_disk_ends_an_update_and_marks_no_file(library, model) -> None:
    for seed, name in enumerate(["d.wav", "e.wav", "f.wav"]):
        write(library / name, 10 + seed, seconds=2.0)
    before = entries(library)
    # Three rows are there, three of the first new file have room, and not all of the second's.
    with limited(8 * 4096), pytest.raises(OSError, match=r"cannot be written .*; make room, then"):
        update(library, model)
    after = entries(library)
    assert after.items() >= before.items()
    assert {name: entry.reason for name, entry in after.items()} == {
        name: None for name in [*before, "d.wav"]
    }
    built = update(library, model)
    assert (built.heard, built.kept, built.broken) == (2, 4, [])
    index = open_index(library)
    assert len(index.vectors) == 3 + 3 * 3
    norms = np.linalg.norm(index.vectors, axis=1)
    assert np.isfinite(norms).all()
    assert norms.min() > 0


def test_a_file_that_cannot_be_read_now_is_looked_at_again(library, model, tmp_path) -> None:
    known = entries(library)["a.wav"]
    kept_aside = (library / "a.wav").rename(tmp_path / "a.wav")
    make_unreadable(library / "a.wav")
    make_unreadable(library / "new.wav")
    built = update(library, model)
    assert dict(built.unread).keys() == {"a.wav", "new.wav"}
    assert built.broken == []
    assert entries(library)["a.wav"] == known  # nothing says that it is another one now
    assert dict(check.differences(open_index(library))).keys() == {"a.wav", "new.wav"}
    for name in ("a.wav", "new.wav"):
        (library / name).unlink()
    kept_aside.rename(library / "a.wav")
    write(library / "new.wav", 30)
    assert check.differences(open_index(library)) == [("new.wav", "not heard yet")]
    built = update(library, model)
    assert (built.heard, built.kept, built.unread) == (1, 3, [])
    assert check.differences(open_index(library)) == []


def test_a_file_that_is_written_or_goes_while_it_is_heard_is_looked_at_again(
    library, model, monkeypatch
) -> None:
    write(library / "growing.wav", 1, seconds=2)
    write(library / "leaving.wav", 2, seconds=2)
    embed = Phalar.embed

    def meanwhile(*given):
        (library / "leaving.wav").unlink(missing_ok=True)
        os.utime(library / "growing.wav", ns=(1, 1))
        return embed(*given)

    monkeypatch.setattr(Phalar, "embed", meanwhile)
    built = update(library, model)
    assert dict(built.unread) == {
        "growing.wav": "cannot be read: it was written while it was read",
        "leaving.wav": "cannot be read: No such file or directory",
    }
    monkeypatch.undo()
    built = update(library, model)
    assert (built.heard, built.kept, built.unread) == (1, 3, [])
    assert "leaving.wav" not in entries(library)


def test_a_folder_that_cannot_be_listed_keeps_its_files(library, model, monkeypatch) -> None:
    before, rows = entries(library), np.array(open_index(library).vectors)
    (library / "a.wav").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing_below(library / "sub"))
        built = update(library, model)
        assert (built.removed, dict(built.unread)) == (
            1, {"sub": "cannot be listed: Input/output error; known files that are kept: 2"}
        )  # fmt: skip
        assert check.differences(open_index(library)) == [
            ("sub", "cannot be listed: Input/output error")
        ]
        patch.setattr(os, "scandir", failing_below(library))
        with pytest.raises(OSError, match=r"stems: cannot be listed .*nothing was changed"):
            update(library, model)
    built = update(library, model)
    assert (built.heard, built.kept, built.unread) == (0, 2, [])
    index = open_index(library)
    for entry in index.entries:
        first = before[entry.path].first
        np.testing.assert_array_equal(index.vectors[entry.first], rows[first])
    monkeypatch.setattr(os, "scandir", failing_below(library / "sub"))
    update(library, model, forget=True)
    assert entries(library) == {}


def test_a_disk_that_is_not_mounted_is_no_empty_library(library, model, tmp_path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.move(library / ".phalar", folder)
    store.write_facts(folder, replace(store.read_facts(folder), library=library))
    mounted = library.rename(tmp_path / "disk")
    library.mkdir()
    before = entries(folder)
    for how in ({}, {"anew": True}):
        with pytest.raises(
            ValueError, match="no sound there, but known files of it: 3; mount its disk"
        ):
            update(library, model, folder, **how)
    assert entries(folder) == before
    library.rmdir()
    mounted.rename(library)
    assert update(library, model, folder).kept == 3
    for name in before:
        (library / name).unlink()
    assert update(library, model, folder, forget=True).removed == 3


def test_bytes_that_changed_in_secret_are_heard_on_demand(library, model) -> None:
    path = library / "a.wav"
    status = path.stat()
    write(path, 99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert check.differences(open_index(library)) == [("a.wav", "changed")]
    assert update(library, model).kept == 3
    built = update(library, model, verify=True)
    assert (built.heard, built.kept, built.moved) == (1, 2, 0)
    assert check.differences(open_index(library)) == []


def test_what_is_no_file_is_listed_and_never_opened(library, model) -> None:
    (library / "a.wav").unlink()
    os.mkfifo(library / "a.wav")
    os.mkfifo(library / "b.flac")
    why = "is a named pipe, no file; remove it"
    assert check.differences(open_index(library)) == [("a.wav", why), ("b.flac", "new")]
    assert update(library, model).broken == [("a.wav", why), ("b.flac", why)]
    assert check.differences(open_index(library)) == []


def test_a_name_that_is_no_text_is_no_difference_once_it_is_listed(library, model) -> None:
    shutil.copy(library / "a.wav", bytes(library) + b"/caf\xe9.wav")
    assert check.differences(open_index(library)) == [(r"caf\xe9.wav", "new")]
    update(library, model)
    assert check.differences(open_index(library)) == []


def test_an_index_behind_a_link_finds_its_library(library, model, tmp_path) -> None:
    disk = tmp_path / "other" / "disk" / "deep"
    disk.mkdir(parents=True)
    shutil.move(library / ".phalar", disk / "index")
    (library / ".phalar").symlink_to(disk / "index")
    store.write_facts(
        library / ".phalar", replace(store.read_facts(disk / "index"), library=library)
    )
    assert open_index(library).facts.library == library.resolve()
    assert update(open_index(library).facts.library, model, library / ".phalar").kept == 3


def test_an_index_follows_a_library_that_moved(library, model, tmp_path) -> None:
    folder = tmp_path / "elsewhere"
    built = update(library, model, folder)
    assert built.heard == 3
    other = tmp_path / "another"
    for seed, name in enumerate(["a.wav", "sub/b.wav", "sub/c.wav"]):
        write(other / name, 70 + seed)
    with pytest.raises(
        ValueError, match=r"is the index of .*stems, not of .*another; name another"
    ):
        update(other, model, folder)
    moved = library.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=f"where it is now: .* --index {folder}` keeps"):
        update(library, model, folder)
    with pytest.raises(ValueError, match=r"of 3 of its files 0 are in .*another: it is another"):
        update(other, model, folder)
    write(moved / "a.wav", 50)
    built = update(moved, model, folder)
    assert (built.heard, built.kept) == (1, 2)
    assert open_index(folder).facts.library == moved.resolve()


def test_a_file_of_the_library_that_is_called_as_ours_is_left_alone(library, model) -> None:
    (library / "index.json").write_text('{"mine": 1}')
    assert len(open_index(library).entries) == 3
    shutil.rmtree(library / ".phalar")
    with pytest.raises(FileNotFoundError, match="no index there; make one with"):
        open_index(library)


def test_an_index_is_searched_while_it_is_written_for_the_first_time(
    tmp_path, model, monkeypatch
) -> None:
    write(tmp_path / "stems/a.wav", 1)
    embed, seen = Phalar.embed, []

    def meanwhile(*given):
        index = open_index(tmp_path / "stems")
        seen.append(Searcher(index).search([np.ones((1, 1024), np.float32)], Wanted()))
        return embed(*given)

    monkeypatch.setattr(Phalar, "embed", meanwhile)
    update(tmp_path / "stems", model)
    assert seen == [[[]]]


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_anew(
    library, model, monkeypatch
) -> None:
    opening, opened = store.map_vectors, []

    def late(path: Path):
        if not opened:
            opened.append(path)
            (library / "sub/c.wav").unlink()
            update(library, model)
            assert not path.exists()
        return opening(path)

    monkeypatch.setattr(store, "map_vectors", late)
    assert entries(library).keys() == {"a.wav", "sub/b.wav"}
    assert opened
    next((library / ".phalar").glob("vectors-*")).unlink()
    with pytest.raises(ValueError, match=r"damaged index .*vectors-1"):
        open_index(library)


def test_codes_that_were_replaced_since_are_no_damage(library, model) -> None:
    folder = library / ".phalar"
    index = open_index(library)
    old = replace(index, state=replace(index.state, codes="codes-0"))
    # The table names others, or none, and theirs are gone.
    assert Searcher(old).codes is None
    assert info.summary(old)["search"] == "exact"
    store.write_table(folder, index.entries, old.state)
    with pytest.raises(ValueError, match="damaged codes"):
        codes.of(old)
    with pytest.raises(ValueError, match="damaged codes"):
        info.summary(old)


def test_hearing_anew_never_leaves_vectors_of_one_model_under_the_name_of_another(
    library, model, monkeypatch
) -> None:
    """Killed at any write, the index is the old one, an empty one, or the new one."""
    folder = library / ".phalar"
    before = open_index(library)
    put = store.writing.put
    for writes in range(3):
        done = []

        def killed(path: Path, content: bytes, done=done, writes=writes) -> None:
            if len(done) == writes:
                raise KeyboardInterrupt
            done.append(path)
            put(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(store.writing, "put", killed)
            with pytest.raises(KeyboardInterrupt):
                build.update(
                    library, folder, model, model_name="n", model_sha256="n",
                    how=build.How(anew=True),
                )  # fmt: skip
        index = open_index(library)
        assert (index.facts.model, len(index.entries)) == [("m", 3), ("m", 0), ("n", 0)][writes]
        np.testing.assert_array_equal(before.vectors, before.vectors[:3])
        if writes == 1:
            assert update(library, model).heard == 3  # as the old one it goes on, too
    assert build.update(library, folder, model, model_name="n", model_sha256="n").heard == 3


def test_a_folder_that_cannot_be_written_says_where_an_index_can_be(tmp_path, model) -> None:
    write(tmp_path / "stems/a.wav", 1)
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"index: cannot be written \(Not a directory\); name a folder"
    ):
        update(tmp_path / "stems", model, tmp_path / "file" / "index")


def test_only_bytes_that_can_be_read_are_damaged(model, tmp_path) -> None:
    """What libsndfile cannot read it calls a format that it does not know."""
    cut = tmp_path / "cut.flac"
    write(cut, 1)
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "empty.mp3").touch()
    make_unreadable(tmp_path / "unreadable.wav")

    def heard(path: Path, sha256: str = "") -> None:
        status = cut.stat() if path != tmp_path / "empty.mp3" else path.stat()
        sha256 = sha256 or hear.file_sha256(path)
        hear.hear(model, path, grid=GRID, status=status, sha256=sha256)

    for path in (cut, tmp_path / "empty.mp3"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            heard(path)
    with pytest.raises(OSError, match="Input/output error"):
        heard(tmp_path / "unreadable.wav", "as it was before")
    with pytest.raises(OSError, match="Input/output error"):
        heard(tmp_path / "not there.wav", "as it was before")
    with pytest.raises(OSError, match="it was written while it was read"):
        heard(cut, "as it was before")
