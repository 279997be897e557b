"""Verify a chain link by link against what is there: registry, git, and every file on this disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from phalar.lineage import verify_files, verify_registry
from phalar.lineage.check import Check, right, unknown, wrong
from phalar.lineage.record import Record
from phalar.params import Params, Paths

FREE = ("register", "tracking")
"""Sections of params.yaml on which no result depends."""


def verify(record: Record, paths: Paths) -> list[Check]:
    """Check every link of a chain.

    Hashes are computed anew. A file of the chain that is not on this disk, or lies where another
    render or another training has written since, is told apart from one that was changed: the
    former cannot be checked here, the latter is wrong.

    Parameters
    ----------
    record : dict
        From `record.read`.
    paths : Paths
        Where the project's data would be.
    """
    project = paths.root.parent
    return [
        *verify_registry.checks(record),
        *_commit(record, project),
        *_params(record, project),
        *verify_files.checks(record, paths),
    ]


def _commit(record: Record, project: Path) -> Iterator[Check]:
    """Whether the commit is there, and was all that the training ran with."""
    git = record["git"]
    if not git["commit"]:
        yield unknown("commit", "the training ran outside git, so its code is not known")
        return
    short = git["commit"][:12]
    if git["dirty"]:
        yield wrong(
            "commit",
            f"the tree was dirty: code or parameters of the training were not those of {short}",
        )
    if _git(project, "cat-file", "-e", f"{git['commit']}^{{commit}}") is None:
        yield unknown("commit", f"{short} is not in this repository; git fetch may bring it")
    elif not git["dirty"]:
        yield right("commit", f"{short} is here, and the tree was clean")


def _params(record: Record, project: Path) -> Iterator[Check]:
    """Whether the recorded parameters are those of the commit."""
    commit = record["git"]["commit"]
    text = _git(project, "show", f"{commit}:./params.yaml") if commit else None
    if text is None:
        yield unknown("parameters", "params.yaml of the training's commit is not here")
        return
    try:
        then = Params.model_validate(yaml.safe_load(text)).model_dump(mode="json", by_alias=True)
    except (ValidationError, yaml.YAMLError):
        yield unknown("parameters", "params.yaml of the commit is of another version of this code")
        return
    names = [name for name in then if name not in FREE]
    other = [name for name in names if then[name] != record["params"].get(name)]
    if other:
        yield wrong("parameters", f"not those of the commit: {', '.join(other)}")
    else:
        yield right("parameters", "those of the commit's params.yaml")


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git; None where it has no answer."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout
