"""Fetching: whatever the network does, the right bytes or a clear error, and nothing half."""

from __future__ import annotations

import hashlib
import threading
from types import SimpleNamespace

import miniatures
import numpy as np
import pytest
import web

from phalar.sources import Archive, fetch

CONTENT = np.random.default_rng(1).bytes(500_000)


@pytest.fixture
def site():
    with web.serve() as served:
        served.files["a.zip"] = CONTENT
        yield served


@pytest.fixture
def wait(monkeypatch):
    """Times that were waited before another try, none of them in truth."""
    waited = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, s=None: waited.append(s))
    return waited


def obtain(site, folder, *, archive=None, sha256=None, **changes):
    settings = miniatures.settings(folder / "p", "slakh2100", fetch=changes).download.fetch
    archive = archive or Archive("a.zip", f"{site.url}a.zip", "a", ".*", md5=md5(CONTENT))
    stop = threading.Event()
    with fetch.client(settings) as client:
        return fetch.obtain(archive, folder, settings, web=client, sha256=sha256, stop=stop)


def md5(content):
    return hashlib.md5(content).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "p")


def test_a_file_comes_whole_and_is_hashed(site, tmp_path):
    got = obtain(site, tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert got.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut"], [None, "bytes=250000-"]),
        (["cut", "cut"], [None, "bytes=250000-", "bytes=375000-"]),
        (["cut", "503", "ignore"], [None, "bytes=250000-", "bytes=250000-"]),
        (["cut", "other range"], [None, "bytes=250000-", None]),
        (["cut", "416"], [None, "bytes=250000-", None]),
        (["503", "429"], [None, None, None]),
    ],
)
def test_faults_of_the_network_end_in_the_right_bytes(site, tmp_path, wait, faults, ranges):
    site.faults["a.zip"] = faults
    assert obtain(site, tmp_path).path.read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ranges
    assert names(tmp_path) == ["a.zip"]


def test_a_connection_that_stalls_is_left_and_resumed(site, tmp_path):
    site.faults["a.zip"] = ["stall"]
    assert obtain(site, tmp_path, timeout_s=0.3).path.read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=250000-"]


def test_waits_double_and_failures_that_bring_bytes_do_not_count(site, tmp_path, wait):
    site.faults["a.zip"] = ["503", "503", "cut", "503", "cut", "503"]
    assert obtain(site, tmp_path).path.read_bytes() == CONTENT
    assert [s for s in wait if s] == [1, 2, 1, 2, 1, 2]


def test_a_server_that_never_answers_well_is_given_up(site, tmp_path, wait):
    site.faults["a.zip"] = ["cut", "503", "503", "503"]
    with pytest.raises(ConnectionError, match=r"503 .*, 3 times in a row; .* from byte 250000"):
        obtain(site, tmp_path)
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    assert obtain(site, tmp_path).path.read_bytes() == CONTENT
    assert site.asked[-1] == ("a.zip", "bytes=250000-")


def test_nobody_at_home_is_one_clear_line(site, tmp_path, wait):
    nowhere = Archive("a.zip", "http://127.0.0.1:9/a.zip", "a", ".*")
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9/a.zip: .*refused.*check the network"):
        obtain(site, tmp_path, archive=nowhere)


@pytest.mark.parametrize("code", ["401", "403", "404", "410"])
def test_a_refusal_is_not_tried_again(site, tmp_path, wait, code):
    site.faults["a.zip"] = [code]
    with pytest.raises(OSError, match=rf"a.zip: the server says {code} .*needs a login: use a mir"):
        obtain(site, tmp_path)
    assert len(site.asked) == 1


def test_wrong_bytes_are_an_error_and_do_not_stay(site, tmp_path, wait):
    site.faults["a.zip"] = ["lie", "lie"]
    with pytest.raises(OSError, match=r"md5 is \w+, must be \w+; it is damaged or another file"):
        obtain(site, tmp_path)
    assert names(tmp_path) == []


def test_a_part_of_something_else_is_replaced_by_the_whole(site, tmp_path, wait):
    site.faults["a.zip"] = ["cut", "lie"]
    assert obtain(site, tmp_path).path.read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=250000-", None]


def test_a_file_that_changed_meanwhile_is_begun_anew(site, tmp_path, wait):
    site.faults["a.zip"] = ["cut", "503", "503", "503"]
    unnamed = Archive("a.zip", f"{site.url}a.zip", "a", ".*")
    with pytest.raises(ConnectionError):
        obtain(site, tmp_path, archive=unnamed)
    site.files["a.zip"] = CONTENT[::-1]
    assert obtain(site, tmp_path, archive=unnamed).path.read_bytes() == CONTENT[::-1]


def test_without_checksum_and_name_a_part_is_not_trusted(site, tmp_path, wait):
    site.faults["a.zip"] = ["nameless", "cut"]
    unnamed = Archive("a.zip", f"{site.url}a.zip", "a", ".*")
    (tmp_path / "a.zip.part").write_bytes(b"of another day")
    (tmp_path / "a.zip.part.json").write_text(f'{{"url": "{site.url}a.zip", "validator": null}}')
    assert obtain(site, tmp_path, archive=unnamed).path.read_bytes() == CONTENT
    assert site.asked == [("a.zip", None)]


def test_the_first_download_binds_later_ones_where_the_publisher_says_nothing(site, tmp_path):
    unnamed = Archive("a.zip", f"{site.url}a.zip", "a", ".*")
    with pytest.raises(OSError, match=r"sha256 is \w+, must be 00"):
        obtain(site, tmp_path, archive=unnamed, sha256="00")


def test_another_size_than_the_publishers_is_told_before_the_transfer(site, tmp_path):
    page = Archive("a.zip", f"{site.url}a.zip", "a", ".*", size_bytes=7)
    with pytest.raises(OSError, match="the server has 500000 bytes, the publisher says 7; another"):
        obtain(site, tmp_path, archive=page)
    assert names(tmp_path) == []


def test_archives_that_are_there_are_checked_and_used(site, tmp_path):
    have = tmp_path / "have"
    have.mkdir()
    (have / "a.zip").write_bytes(CONTENT)
    assert obtain(site, tmp_path, have=str(have)).path == have / "a.zip"
    (have / "a.zip").write_bytes(b"half")
    with pytest.raises(OSError, match=r"have/a.zip: md5 is"):
        obtain(site, tmp_path, have=str(have))
    assert site.asked == []
    assert (have / "a.zip").exists()


def test_a_mirror_takes_the_place_of_the_publisher(site, tmp_path):
    there = Archive("a.zip", "https://example.invalid/sets/a.zip", "a", ".*", md5=md5(CONTENT))
    mirrors = {"https://example.invalid/sets/": site.url}
    assert obtain(site, tmp_path, archive=there, mirrors=mirrors).path.read_bytes() == CONTENT


def test_a_full_disk_is_told_before_the_transfer(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"0.0 GB are missing, 0.0 GB are free; free space"):
        obtain(site, tmp_path)


def test_a_proxy_of_the_environment_is_used(site, tmp_path, monkeypatch, wait):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="refused"):
        there = Archive("a.zip", "http://example.invalid/a.zip", "a", ".*")
        obtain(site, tmp_path, archive=there)
