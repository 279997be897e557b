"""Experiments of DVC's: run one aside, tell whether it is done, fetch what it made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dvc.api import DVCFileSystem
from dvc.repo import Repo

from flows import process, repro
from flows.checkpoints import CHECKPOINTS
from phalar import runlog
from phalar.params import Params

Changes = dict[str, str]
"""New values by the dotted names of parameters."""


def apply(path: Path, changes: Changes) -> dict[str, Any]:
    """Give the values of a parameter file with some of them changed.

    Raises
    ------
    ValueError
        A name is not in the file.
    """
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    for name, text in changes.items():
        *sections, key = name.split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or key not in place:
            raise ValueError(f"{path}: {name} is not a parameter; mend its spelling")
        place[key] = yaml.safe_load(text)
    return values


def found() -> dict[str, str]:
    """Give the commit of each experiment that was run on top of HEAD, by name."""
    with Repo() as repo:
        listed = repo.experiments.ls()
    return {name: commit for named in listed.values() for name, commit in named}


def state() -> str:
    """Give all that an experiment takes from the project, so that a change of it shows."""
    return _git("rev-parse", "HEAD").stdout + _git("diff", "HEAD").stdout


def is_done(commit: str, params_path: Path, changes: Changes) -> bool:
    """Tell whether an experiment had the code, the parameters and the rendered data of today.

    What differs in none of them DVC would not run again; what differs it may still have in its
    cache. So this only saves asking.
    """
    same_code = _git("diff", "--quiet", commit, "--", *runlog.CODE).returncode == 0
    if not same_code or yaml.safe_load(_shown(commit, params_path)) != apply(params_path, changes):
        return False
    then, now = _shown(commit, Path("dvc.lock")), Path("dvc.lock").read_text()
    return bool(_rendered(then) == _rendered(now))


def _shown(commit: str, path: Path) -> str:
    return _git("show", f"{commit}:./{path}", check=True).stdout


def _rendered(lock: str) -> Any:
    return yaml.safe_load(lock)["stages"]["render"]["outs"]


def _git(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=check)


def run(name: str, changes: Changes, params: Params, *, target: str, checkpoints: Path) -> None:
    """Run an experiment up to a stage, aside: the project's own data and parameters stay.

    Parameters
    ----------
    name : str
        Of the experiment; an older one of this name on the same commit gives way.
    changes : dict
        Parameters that differ.
    params : Params
        Those of the project.
    target : str
        The last stage.
    checkpoints : Path
        Where its training goes on if it is stopped: DVC throws the experiment's folder away.

    Raises
    ------
    RuntimeError
        It failed; says what the stage said last.
    """
    if name in found():
        _dvc("exp", "remove", name)
    checkpoints.mkdir(parents=True, exist_ok=True)
    settings = [word for key, text in changes.items() for word in ("-S", f"{key}={text}")]
    child = subprocess.Popen(
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", name, *settings, target],
        env={
            **repro.environment(),
            "PYTHONUNBUFFERED": "1",
            # Else its run would be recorded in a database that goes with the folder.
            "MLFLOW_TRACKING_URI": runlog.tracking_uri(params.tracking, Path.cwd()),
            CHECKPOINTS: str(checkpoints.absolute()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last = ""
    try:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            # Behind what the stage says, DVC says that the stage failed.
            if line.strip() and not line.startswith("ERROR"):
                last = line.strip()
        code = child.wait()
    finally:
        process.stop(child)
    if code != 0:
        raise RuntimeError(last or f"dvc exp run ended with exit code {code}")


def fetch(commit: str, paths: list[str], folder: Path) -> None:
    """Put files that an experiment made into a folder, as links to DVC's cache."""
    files = DVCFileSystem(url=os.curdir, rev=commit)
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        place = folder / Path(path).name
        aside = place.with_name(place.name + ".part")
        aside.unlink(missing_ok=True)
        files.get_file(path, str(aside))
        aside.replace(place)


def _dvc(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        env=repro.environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise RuntimeError(f"dvc {' '.join(words)} failed: {last}")
