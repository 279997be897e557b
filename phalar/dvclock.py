"""What dvc.lock says of the data: DVC's hash of each output, and whether it is of what is here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from phalar.params import Paths
from phalar.runlog import DataSet

FILE = "dvc.lock"
Entry = dict[str, Any]


def stages(project: Path) -> dict[str, Entry]:
    """Read the entry of each stage; none where there is no lock file."""
    path = project / FILE
    if not path.is_file():
        return {}
    return (yaml.safe_load(path.read_text()) or {}).get("stages") or {}


def outs(project: Path) -> list[Entry]:
    """List the outputs of all stages before `register`: stage, path, MD5, and `agrees`.

    `agrees` compares them with what is on disk, folders by size and number of files: where the
    stages ran without DVC, its lock file is of another time.
    """
    return [
        {
            "stage": stage,
            "path": out["path"],
            "md5": out["md5"],
            "agrees": _agrees(project / out["path"], out),
        }
        for stage, entry in stages(project).items()
        if stage.partition("@")[0] != "register"
        for out in entry.get("outs", [])
    ]


def data_sets(project: Path, paths: Paths, digest: str) -> tuple[tuple[DataSet, ...], str]:
    """Name what a training reads, and what that was made from, by DVC's hashes where it has them.

    DVC writes the entry of each stage as soon as it has run, so that the one of `render` is there
    while `train` runs. Upstream, too, that entry counts: it holds what the pairs were made from,
    whatever lies in `data/prepare` by now.

    Parameters
    ----------
    project : Path
        Folder of dvc.lock.
    paths : Paths
        Where the data lie.
    digest : str
        What stands for the rendered data where DVC does not know them.

    Returns
    -------
    tuple of DataSet
        The rendered pairs first.
    str
        DVC's hash of them, or `none` and why.
    """
    entry = stages(project).get("render", {})
    out = next(iter(entry.get("outs", [])), None)
    if out is None:
        reason = f"{FILE} lists no render" if (project / FILE).is_file() else f"there is no {FILE}"
    elif (project / out["path"]).resolve() != paths.render.resolve():
        reason = f"{FILE} is of {out['path']}, and the data lie elsewhere"
    elif not _agrees(paths.render, out):
        reason = f"{FILE} is of another render than the one that lies there"
    else:
        read = DataSet("render", paths.render, out["md5"], "training")
        made_from = [
            DataSet(Path(dep["path"]).name, project / dep["path"], dep["md5"], "source")
            for dep in entry.get("deps", [])
            if (project / dep["path"]).resolve().is_relative_to(paths.root.resolve())
        ]
        return (read, *made_from), out["md5"]
    return (DataSet("render", paths.render, digest, "training"),), f"none: {reason}"


def _agrees(path: Path, out: Entry) -> bool:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == str(out["md5"])
    return _size(path) == (out["size"], out.get("nfiles", 1))


def _size(path: Path) -> tuple[int, int]:
    """Bytes and number of files below a path."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)
