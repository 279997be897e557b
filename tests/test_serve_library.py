"""The library behind the API: what has changed since it was indexed, and what of it may go out."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from test_serve import model, wav  # noqa: F401 - fixtures

from phalar import search
from phalar.search import store
from phalar.search.windows import Grid

pytest.importorskip("multipart", reason="pip install 'phalar[serve]'")
from fastapi.testclient import TestClient

from phalar.serve.app import create_app
from phalar.serve.library import Library
from phalar.serve.service import Service


def indexed(root: Path, model, *, sha256: str = "m") -> None:  # noqa: F811
    search.update(
        root, root / ".phalar", model, model_name="m", model_sha256=sha256, grid=Grid(1.0, 0.5)
    )


def opened(root: Path) -> search.Searcher:
    return search.Searcher(search.open_index(root))


@pytest.fixture
def root(tmp_path, model) -> Path:  # noqa: F811
    (tmp_path / "stems/more").mkdir(parents=True)
    (tmp_path / "stems/bass.wav").write_bytes(wav(1.5, seed=1))
    (tmp_path / "stems/more/drums.wav").write_bytes(wav(1.5, seed=2))
    indexed(tmp_path / "stems", model)
    return tmp_path / "stems"


@pytest.fixture
def client(root, model) -> TestClient:  # noqa: F811
    service = Service(model, opened(root), workers=1)
    return TestClient(create_app(service), base_url="http://localhost")


def ids(root: Path) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in search.open_index(root).entries}


def test_a_file_goes_out_only_as_it_was_indexed(client, root, tmp_path) -> None:
    path = root / "bass.wav"
    address = f"/api/audio/{ids(root)['bass.wav']}"
    content, status = path.read_bytes(), path.stat()
    assert client.get(address).content == content

    def gone() -> None:
        answer = client.get(address)
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("bass.wav: no longer as it was indexed")
        form = {"id": ids(root)["bass.wav"]}
        asked = client.post("/api/audition", files={"files": ("a.wav", wav())}, data=form)
        assert (asked.status_code, str(tmp_path) in asked.text) == (404, False)

    def put_back() -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert client.get(address).status_code == 200

    path.unlink()
    path.symlink_to("/etc/passwd")
    gone()
    put_back()
    # Elsewhere, also where it looks the same.
    outside = tmp_path / "outside.wav"
    path.rename(outside)
    path.symlink_to(outside)
    gone()
    put_back()
    path.write_bytes(content[:-4])
    gone()
    put_back()
    os.utime(path)
    gone()
    put_back()
    path.unlink()
    gone()
    path.symlink_to(path)
    gone()
    path.unlink()
    path.mkdir()
    gone()


def test_a_copy_goes_out_where_the_first_is_gone(root, model) -> None:  # noqa: F811
    for name in ("a.wav", "z.wav"):
        (root / name).write_bytes((root / "bass.wav").read_bytes())
    indexed(root, model)
    found = Library(opened(root))
    for name in ("a.wav", "bass.wav"):
        (root / name).unlink()
    entry, path = found.current().find(ids(root)["z.wav"])
    assert (entry.path, path) == ("z.wav", (root / "z.wav").resolve())


def test_a_damaged_file_is_named_as_the_library_names_it(client, root) -> None:
    path = root / "more/drums.wav"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    form = {"id": ids(root)["more/drums.wav"]}
    answer = client.post("/api/audition", files={"files": ("a.wav", wav())}, data=form)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("more/drums.wav: cannot be decoded")
    assert str(root) not in answer.text


def test_an_update_is_taken_up_and_old_answers_end_with_the_old_index(root, model) -> None:  # noqa: F811
    library = Library(opened(root))
    before = library.current()
    assert library.current() is before
    old = before.searcher.index.vectors.copy()

    (root / "piano.wav").write_bytes(wav(1.5, seed=3))
    (root / "bass.wav").unlink()
    indexed(root, model)
    after = library.current()
    assert {entry.path for entry in after.searcher.index.entries} == {
        "piano.wav", "more/drums.wav",
    }  # fmt: skip
    assert after.info["instruments"] == ["drums", "piano"]
    assert library.current() is after
    # One who still holds the old one finds in it what was there.
    assert {entry.path for entry in before.searcher.index.entries} == {
        "bass.wav", "more/drums.wav",
    }  # fmt: skip
    assert (before.searcher.index.vectors == old).all()


def test_an_update_that_changes_nothing_opens_nothing(root, model) -> None:  # noqa: F811
    library = Library(opened(root))
    before = library.current()
    indexed(root, model)
    assert library.current() is before


def test_an_update_between_opening_and_serving_is_not_missed(root, model) -> None:  # noqa: F811
    early = opened(root)
    (root / "piano.wav").write_bytes(wav(1.5, seed=3))
    indexed(root, model)
    assert len(Library(early).current().searcher.index.entries) == 3


def test_an_index_that_cannot_be_taken_up_is_said_once(root, model, caplog) -> None:  # noqa: F811
    library = Library(opened(root))
    before = library.current()
    table = root / ".phalar/files.parquet"
    table.write_bytes(b"none")
    for _ in range(3):
        assert library.current() is before
    assert caplog.text.count("damaged index") == 1
    assert "goes on with the index as it was" in caplog.text
    table.unlink()
    assert library.current() is before
    (root / ".phalar/index.json").unlink()
    indexed(root, model, sha256="other")
    assert library.current() is before
    assert "is now of another model; start the server anew" in caplog.text


def test_damaged_codes_of_a_new_index_are_said_once(root, model, caplog) -> None:  # noqa: F811
    library = Library(opened(root))
    before = library.current()
    folder = root / ".phalar"
    index = search.open_index(root)
    store.write_table(folder, index.entries, replace(index.state, codes="codes-0"))
    (folder / "codes-0").mkdir()
    (folder / "codes-0/facts.json").write_text("{}")
    for _ in range(3):
        assert library.current() is before
    assert caplog.text.count("damaged codes") == 1
    assert "goes on with the index as it was" in caplog.text
    # Made anew by the next update, they are taken up; so is what else it found.
    (root / "piano.wav").write_bytes(wav(1.5, seed=3))
    indexed(root, model)
    assert len(library.current().searcher.index.entries) == 3


def test_a_table_that_a_disk_withholds_is_said_once(root, model, caplog, monkeypatch) -> None:  # noqa: F811
    service = Service(model, opened(root), workers=1)
    before = service.library.current()
    real = Path.stat

    def failing(path: Path, **given: bool) -> os.stat_result:
        if path.name == store.TABLE:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, **given)

    with monkeypatch.context() as patch, TestClient(create_app(service)) as client:
        patch.setattr(Path, "stat", failing)
        client.base_url = "http://localhost"
        for _ in range(3):
            assert client.get("/api/info").json()["files"] == 2
    assert caplog.text.count("goes on with the index as it was") == 1
    assert service.library.current() is before
    (root / "piano.wav").write_bytes(wav(1.5, seed=3))
    indexed(root, model)
    assert len(service.library.current().searcher.index.entries) == 3


def test_while_one_opens_the_others_go_on_with_the_old(root, model, monkeypatch) -> None:  # noqa: F811
    library = Library(opened(root))
    before = library.current()
    (root / "piano.wav").write_bytes(wav(1.5, seed=3))
    indexed(root, model)
    begun, go_on = threading.Event(), threading.Event()
    real = search.open_index

    def slow(place):
        begun.set()
        go_on.wait(60)
        return real(place)

    monkeypatch.setattr("phalar.serve.library.open_index", slow)
    thread = threading.Thread(target=library.current)
    thread.start()
    begun.wait(60)
    assert library.current() is before
    go_on.set()
    thread.join()
    assert len(library.current().searcher.index.entries) == 3
