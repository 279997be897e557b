"""Unpacking: the wanted files and no others, and no archive gets out of its folder."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import zipfile

import miniatures
import pytest

from phalar.sources.unpack import unpack

FILES = {"a/x.wav": b"one", "a/b/y.wav": b"two" * 1000, "a/readme.txt": b"three"}


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz", "zip"])
def test_wanted_files_are_unpacked_and_summed(tmp_path, packed):
    make = miniatures.zipped if packed == "zip" else lambda f: miniatures.tar(f, packed)
    (tmp_path / "archive").write_bytes(make(FILES))
    members = unpack(tmp_path / "archive", tmp_path / "out", wanted=r".*\.wav")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert found == {"a/x.wav", "a/b/y.wav"}
    for member in members:
        assert (tmp_path / "out" / member.path).read_bytes() == FILES[member.path]
        assert member.sha256 == hashlib.sha256(FILES[member.path]).hexdigest()


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


EVIL = {
    "absolute": entry("/etc/evil.wav"),
    "upwards": entry("a/../../evil.wav"),
    "backslash": entry("a\\..\\evil.wav"),
    "drive": entry("C:evil.wav"),
    "symbolic link": entry("evil.wav", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": entry("evil.wav", tarfile.LNKTYPE, "/etc/passwd"),
    "device": entry("evil.wav", tarfile.CHRTYPE),
    "pipe": entry("evil.wav", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_tar_that_is_not_harmless_is_refused(tmp_path, kind):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(EVIL[kind])
    with pytest.raises(ValueError, match=r"evil\.tar: member .* (would lie|is a link|has a name)"):
        unpack(path, tmp_path / "in" / "out", wanted=r"nothing")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.tar", "in", "out"]


@pytest.mark.parametrize("name", ["/etc/evil.wav", "../evil.wav", "a\\..\\evil.wav"])
def test_a_zip_that_is_not_harmless_is_refused(tmp_path, name):
    (tmp_path / "evil.zip").write_bytes(miniatures.zipped({name: b"evil"}))
    with pytest.raises(ValueError, match=r"evil\.zip: member .* would lie outside"):
        unpack(tmp_path / "evil.zip", tmp_path / "in" / "out", wanted=".*")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.zip", "in", "out"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("evil.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "evil.zip").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="is a link"):
        unpack(tmp_path / "evil.zip", tmp_path / "out", wanted=".*")


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "page", "empty"])
def test_a_damaged_archive_is_named(tmp_path, packed, damage):
    content = {f"{n}.wav": miniatures.wav(n) for n in range(3)}
    make = miniatures.zipped if packed == "zip" else lambda f: miniatures.tar(f, packed)
    whole = bytearray(make(content))
    if damage == "flipped":
        whole[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    broken = {"cut": whole[: len(whole) // 2], "page": b"<html>", "empty": b""}.get(damage, whole)
    (tmp_path / "a.bin").write_bytes(broken)
    with pytest.raises(ValueError, match=r"a\.bin: (not a whole|damaged|holds)"):
        unpack(tmp_path / "a.bin", tmp_path / "out", wanted=r".*\.wav")


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(entry("x.wav"))
    with pytest.raises(ValueError, match=r"holds \S*x\.wav twice"):
        unpack(tmp_path / "a.tar", tmp_path / "out", wanted=".*")
