"""Setting up: once, whole, and anew where it was interrupted. A stand-in plays Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 $2" in
  "-c "*) exit ${OLD:-0} ;;
  "--version ") echo "Python 3.9.1" ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip") echo "Collecting numpy"; exit ${PIP:-0} ;;
  "-m flows.repro" | "-m pytest") exit ${RUN:-0} ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, goal: str, **changes: str) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and what Python was called with."""
    log = folder / "log"
    log.write_text("")
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", goal, f"PYTHON={folder / 'python3'}"],
        cwd=folder,
        env={**outer, "LOG": str(log), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, log.read_text().splitlines()


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("-m pip")]


def test_a_second_call_installs_nothing(folder: Path) -> None:
    code, _, calls = make(folder, "repro")
    assert code == 0
    assert installs(calls) == ["-m pip install -e .[pipeline,embedded] -c constraints.txt"]
    assert calls[-1] == "-m flows.repro"
    code, out, calls = make(folder, "repro")
    assert (code, out, calls) == (0, "", ["-m flows.repro"])


def test_changed_requirements_are_installed(folder: Path) -> None:
    make(folder, "repro")
    stamp = (folder / ".venv/installed-line").stat().st_mtime
    os.utime(folder / "constraints.txt", (stamp + 10, stamp + 10))
    assert len(installs(make(folder, "repro")[2])) == 1


def test_the_tests_need_more_than_the_line(folder: Path) -> None:
    make(folder, "repro")
    code, _, calls = make(folder, "test")
    assert code == 0
    assert installs(calls) == [
        "-m pip install -e .[pipeline,embedded,cocola,search,serve,test] -c constraints.txt"
    ]
    assert calls[-1].startswith("-m pytest")
    assert "-m venv .venv" not in calls


def test_an_interrupted_install_is_begun_anew(folder: Path) -> None:
    code, _, calls = make(folder, "repro", PIP="1")
    assert code != 0
    assert "-m flows.repro" not in calls
    (folder / ".venv/half").touch()
    code, _, calls = make(folder, "repro")
    assert code == 0
    assert not (folder / ".venv/half").exists()
    assert [call for call in calls if "venv" in call] == ["-m venv .venv"]
    assert len(installs(calls)) == 1


def test_an_old_python_is_refused_with_the_remedy(folder: Path) -> None:
    code, out, calls = make(folder, "repro", OLD="1")
    assert code != 0
    assert "Python 3.9.1\nphalar needs Python 3.11 or later: make PYTHON=..." in out
    assert installs(calls) == []


def test_a_run_that_fails_makes_make_fail(folder: Path) -> None:
    assert make(folder, "repro", RUN="1")[0] != 0
    assert make(folder, "test", RUN="1")[0] != 0
