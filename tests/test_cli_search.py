"""`phalar index` and `phalar search` as a user calls them."""

import json
import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from phalar.cli import Printable
from phalar.cli.options import printable
from phalar.model import ModelConfig, build_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a mix, and a library of three stems and a page."""
    root = tmp_path_factory.mktemp("cli")
    save_model(build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)), root / "m")
    rng = np.random.default_rng(1)
    (root / "stems").mkdir()
    for name in ("mix.wav", "stems/bass.wav", "stems/drums_100bpm.wav", "stems/piano Am.flac"):
        sound = np.convolve(rng.normal(0, 0.1, 6 * 16_000), np.hanning(16) / 8, "same")
        soundfile.write(root / name, sound, 16_000)
    (root / "stems/page.wav").write_text("<html>")
    return root


def test_from_a_folder_to_files_that_fit(call, folder, caplog) -> None:
    code, out, _ = call("index build stems --model m --window 2 --hop 1")
    assert code == 0
    assert "3 heard, 0 as they were, 0 moved or copied, 0 gone, 1 broken" in out
    assert "page.wav: cannot be decoded" in out
    code, out, _ = call("index info stems --json")
    assert (code, json.loads(out)["files"], json.loads(out)["windows"]) == (0, 3, 15)
    assert (json.loads(out)["search"], json.loads(out)["recall"]) == ("exact", None)
    code, out, _ = call("index update stems --json")
    assert (code, json.loads(out)["heard"], json.loads(out)["kept"]) == (0, 0, 4)
    code, out, _ = call("index check stems")
    assert (code, out) == (0, "all as heard\n")

    code, out, _ = call("search mix.wav --index stems --from 1 --export found --json")
    records = json.loads(out)
    assert code == 0
    assert [r["score"] for r in records] == sorted((r["score"] for r in records), reverse=True)
    assert {(r["tempo_bpm"], r["tempo_from"]) for r in records} == {(None, None), (100.0, "name")}
    assert len(list((folder / "found").iterdir())) == 6
    code, out, _ = call("search mix.wav stems/bass.wav --index stems --exclude drums --top 5")
    assert code == 0
    assert "piano" in out
    assert "bass.wav" not in out
    assert "drums" not in out
    code, out, _ = call("search mix.wav --index stems --transpose 0..1 --instrument bass")
    assert (code, out.count("bass.wav")) == (0, 1)
    code, out, _ = call("search mix.wav --index stems --from 1 --exact --no-refine --json")
    # Starts are those of windows, a second apart; the others are finer.
    assert {r["start_s"] % 1 for r in json.loads(out)} == {0}
    assert any(r["start_s"] % 1 for r in records)
    code, _, _ = call("index update stems --approximate")
    assert code == 0
    assert (
        "15 windows that are not silent, codes need 1000 or more; searched exactly" in caplog.text
    )

    # By whatever name it is asked with, a file of the library is not found for itself.
    (folder / "linked.wav").symlink_to(folder / "stems/bass.wav")
    (folder / "stems/outside.wav").symlink_to(folder / "mix.wav")
    assert call("index update stems")[0] == 0
    for mix, itself in (("linked", "bass"), ("stems/outside", "outside"), ("mix", "outside")):
        code, out, _ = call(f"search {mix}.wav --index stems --no-refine --json")
        found = {Path(r["path"]).stem for r in json.loads(out)}
        assert {"bass", "outside"} - found == {itself}
    (folder / "stems/outside.wav").unlink()
    assert call("index update stems")[0] == 0

    (folder / "stems/new.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    code, out, _ = call("index check stems --json")
    assert (code, json.loads(out)) == (1, [{"path": "new.wav", "what": "new"}])


@pytest.fixture(scope="module")
def odd(folder):
    """A library of two stems under names that nobody would give by hand."""
    library = folder / "odd"
    deep = library / ("x" * 90 + " :drum:")
    deep.mkdir(parents=True)
    (deep / "kick \x1b[31m\r\u202e.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    (library / "snare.wav").write_bytes((folder / "mix.wav").read_bytes())
    (library / "page\n\x07.wav").write_text("<html>")
    return library


def test_names_reach_a_terminal_as_text_and_a_pipe_unbroken(call, odd, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, _ = call("index build odd --model m --window 2 --hop 1")
    assert code == 0
    assert "  page??.wav: cannot be decoded" in out
    code, out, _ = call("index info odd")
    assert "  page??.wav: cannot be decoded" in out
    code, out, _ = call("search mix.wav --index odd --no-refine")
    (line,) = (line for line in out.splitlines() if "kick" in line)
    assert line.rstrip().endswith("x :drum:/kick ?[31m??.wav")
    assert len(out.splitlines()) == 2
    next(odd.rglob("kick*")).unlink()
    code, out, _ = call("index check odd")
    assert code == 1
    assert "/kick ?[31m??.wav: gone" in out
    assert printable("caf\xe9 \u0928\u093e \u3000\udc80") == "caf\xe9 \u0928\u093e \u3000?"


def test_nothing_found_says_why(call, folder, caplog) -> None:
    assert call("index build stems --model m --window 2 --hop 1")[0] == 0
    search = "search mix.wav --index stems --no-refine"
    unknown = "no family of instruments, and no word of the path of any file"
    found, out, err = call(f"{search} --instrument drmus")
    assert (found, out) == (2, "")
    assert f"--instrument drmus: {unknown}; did you mean drums?" in err
    code, out, _ = call(f"{search} --exclude drmus --instrument Drum")
    assert (code, out.count("drums_100bpm.wav")) == (0, 1)
    assert f"--exclude drmus: {unknown}; did you mean drums?" in caplog.text
    code, out, _ = call(f"{search} --instrument tuba")
    assert code == 0
    assert "of --instrument tuba there is no file; names and folders tell of: bass, drums" in out
    code, out, err = call(f"{search} --instrument tuba --json")
    assert (code, json.loads(out)) == (0, [])
    assert "of --instrument tuba there is no file" in err
    code, out, _ = call(f"{search} --instrument bass --exclude bass")
    assert (code, out) == (0, "--exclude leaves none of the 1 files in question; loosen it\n")
    sound = np.tile(soundfile.read(folder / "mix.wav")[0], 2)
    soundfile.write(folder / "long.wav", sound, 16_000)
    code, out, _ = call("search long.wav --index stems --no-refine --seconds 9 --instrument bass")
    assert code == 0
    assert "none of the 1 files in question is as long as the moment; shorten it" in out
    (folder / "one").mkdir()
    assert call("index build one --model m --window 2 --hop 1")[0] == 0
    code, out, _ = call("search mix.wav --index one --instrument drmus")
    assert code == 0
    assert "holds no file that is heard; `phalar index info` says why" in out
    (folder / "one/same.wav").write_bytes((folder / "mix.wav").read_bytes())
    assert call("index update one")[0] == 0
    code, out, _ = call("search mix.wav --index one")
    assert (code, out) == (0, "the library holds nothing but what is searched with\n")
    (folder / "one/other.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    assert call("index update one")[0] == 0
    (folder / "one/other.wav").unlink()
    code, out, _ = call("search mix.wav --index one")
    assert (code, out) == (0, "what fits cannot be read any more; run `phalar index update`\n")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("index build nowhere", 2, "nowhere: no such folder; give the folder of your stems"),
        ("index info m", 2, "m: no index there; make one with `phalar index build DIR`"),
        ("search mix.wav --index m", 2, "no index there"),
        ("search no.wav --index m", 2, "no.wav: no such file"),
        ("search mix.wav --index m --transpose 1.5", 2, "must be whole semitones, such as -6..6"),
        ("search mix.wav --index m --stretch fast", 2, "must be a number, or two with .. between"),
        ("search mix.wav --index m --transpose 13", 1, "transpose 13..13: must rise"),
    ],
)
def test_error_is_one_line_with_its_exit_code(call, words, code, why) -> None:
    found, out, err = call(words)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert why in err


def test_what_cannot_be_done_leaves_the_index_and_names_what_can(call, folder) -> None:
    root = folder / "kept"
    root.mkdir()
    (root / "bass.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    # A folder of the name of a registered model holds no weights.
    (folder / "phalar").mkdir()
    assert call("index build kept --model m")[0] == 0
    before = {path: path.read_bytes() for path in (root / ".phalar").iterdir()}
    for words, code, why in [
        ("index build kept --anew --model /nowhere", 2, "/nowhere: no such model"),
        ("index build kept --anew --model phalar", 2, "phalar: no such folder, and no registry"),
        ("index build kept --anew --window 0 --model m", 1, "windows of 0 s every 0 s"),
    ]:
        found, _, err = call(words)
        assert (found, why in err, err.count("\n")) == (code, True, 1)
    assert {path: path.read_bytes() for path in (root / ".phalar").iterdir()} == before

    path, status = root / "bass.wav", (root / "bass.wav").stat()
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"xx")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, _ = call("index check kept")
    assert (code, out) == (
        1, "bass.wav: changed\n1 differ; run `phalar index update --verify`\n"
    )  # fmt: skip
    code, out, _ = call("index update kept --verify --json")
    assert (code, json.loads(out)["heard"], json.loads(out)["unread"]) == (0, 1, [])
    assert call("index check kept")[0] == 0

    (root / "\x1b[2Jb\n.wav").write_text("<html>")
    code, out, _ = call("index check kept")
    assert out.splitlines()[0] == "?[2Jb?.wav: new"
    code, out, _ = call("index update kept")
    assert "?[2Jb?.wav: cannot be decoded" in out
    for each in root.glob("*.wav"):
        each.unlink()
    code, _, err = call("index update kept")
    assert (code, "no sound there, but known files of it: 1" in err) == (1, True)
    code, out, _ = call("index update kept --forget --json")
    assert (code, json.loads(out)["removed"]) == (0, 2)


def test_windows_overlap_by_half_unless_told_otherwise(call, folder) -> None:
    root = folder / "halves"
    root.mkdir()
    (root / "bass.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    for words, window_s, hop_s in [("--window 2", 2, 1), ("--hop 1.5", 5, 1.5), ("", 5, 1.5)]:
        anew = "--anew" if words else ""
        assert call(f"index build halves --model m {words} {anew}")[0] == 0
        found = json.loads(call("index info halves --json")[1])
        assert (found["window_s"], found["hop_s"]) == (window_s, hop_s)


def test_without_what_reads_tags_an_index_is_searched_but_not_made(
    call, folder, monkeypatch
) -> None:
    """As where the extra `search` is not installed whole."""
    root = folder / "untagged"
    root.mkdir()
    (root / "bass.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    assert call("index build untagged --model m")[0] == 0

    code = "import sys; sys.modules['tinytag'] = None; from phalar import cli; cli.main()"
    words = "search mix.wav --index untagged --no-refine --json"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, *words.split()],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)) == 1
    monkeypatch.setitem(sys.modules, "tinytag", None)
    for words in ("index build untagged --model m", "index update untagged"):
        refused, out, err = call(words)
        assert (refused, out, err.count("\n")) == (2, "", 1)
        assert "tinytag" in err
        assert "pip install 'phalar[search]'" in err


def test_an_index_names_the_version_that_an_alias_meant(call, folder, monkeypatch) -> None:
    """After a promotion `champion` is another model, which an index is not of."""
    from phalar import registry

    fetched = []
    monkeypatch.setattr(registry, "find", lambda name: "a registry")
    monkeypatch.setattr(registry, "opened", lambda uri: nullcontext("a client"))
    monkeypatch.setattr(
        registry,
        "find_version",
        lambda client, name: {"phalar@champion": SimpleNamespace(name="phalar", version="3")}[name],
    )
    monkeypatch.setattr(registry, "fetch", lambda name: fetched.append(name) or folder / "m")
    root = folder / "registered"
    root.mkdir()
    (root / "bass.wav").write_bytes((folder / "stems/bass.wav").read_bytes())
    assert call("index build registered --model champion")[0] == 0
    code, out, _ = call("index info registered --json")
    assert (code, json.loads(out)["model"]) == (0, "phalar/3")
    assert call("search mix.wav --index registered --no-refine")[0] == 0
    assert fetched == ["phalar/3", "phalar/3"]
    # A model that moved is named as it is called now.
    assert call("index update registered --model m")[0] == 0
    code, out, _ = call("index info registered --json")
    assert json.loads(out)["model"] == str((folder / "m").resolve())


def test_files_that_are_gone_keep_no_others_from_being_exported(call, folder, caplog) -> None:
    gone = folder / "stems/drums_100bpm.wav"
    aside = gone.rename(folder / "aside.wav")
    try:
        words = "search mix.wav --index stems --no-refine --export some --json"
        code, out, _ = call(words)
    finally:
        aside.rename(gone)
    assert code == 0
    assert gone.name in {Path(record["path"]).name for record in json.loads(out)}
    exported = {path.name for path in (folder / "some").iterdir()}
    assert any("bass" in name for name in exported)
    assert not any("drums" in name or name.endswith(".part") for name in exported)
    assert "not exported: " in caplog.text


def test_what_is_silent_in_between_is_not_as_long_as_the_moment(call, folder) -> None:
    sound = np.random.default_rng(3).normal(0, 0.1, 6 * 16_000)
    sound[2 * 16_000 : 4 * 16_000] = 0
    (folder / "gap").mkdir()
    soundfile.write(folder / "gap/gap.wav", sound, 16_000)
    assert call("index build gap --model m --window 2 --hop 1")[0] == 0
    code, out, _ = call("search mix.wav --index gap --seconds 4 --no-refine")
    assert (code, out) == (
        0,
        "none of the 1 files in question is heard for so long; shorten the moment\n",
    )


def test_no_name_steers_a_terminal(call, capsys) -> None:
    code, _, told = call("search \x1b[31mred.wav --index stems")
    assert (code, told) == (2, "phalar: ?[31mred.wav: no such file\n")
    name = "left out: \x1b]0;title\x07.wav\nelsewhere"
    record = logging.LogRecord("phalar", logging.WARNING, "", 0, name, None, None)
    shown = Printable("phalar: %(message)s").format(record)
    assert shown == "phalar: left out: ?]0;title?.wav\nelsewhere"
