"""What has arrived in a folder of your own: DVC does not look there, since it may be large."""

from __future__ import annotations

import json
import re
from pathlib import Path

from phalar.params import Params
from phalar.runlog import file_sha256
from phalar.sources import folder

SOURCE = "folder"


def stages(params: Params) -> list[str]:
    """List the download stages that must run anew: that of `folder`, where it changed.

    Files are compared with the receipt by name and size, and by SHA-256 only where they are newer,
    so that a large folder is not read every night.
    """
    own, receipt = params.download.folder, _receipt(params)
    if SOURCE not in params.sources or own is None or not receipt.is_file():
        return []  # without a receipt DVC runs the stage by itself
    music = params.paths.root.parent / own.path
    if not music.is_dir():
        return []  # such as a disk that is away: what was downloaded is still good
    return [f"download@{SOURCE}"] if _changed(music, receipt) else []


def take_in(params: Params) -> None:
    """Give up the receipt of a folder that changed: DVC then runs its download and what follows."""
    if stages(params):
        _receipt(params).unlink()


def _receipt(params: Params) -> Path:
    return params.paths.download(SOURCE) / "receipt.json"


def _changed(music: Path, receipt: Path) -> bool:
    known = {file["path"]: file for file in json.loads(receipt.read_text())["files"]}
    noted_s = receipt.stat().st_mtime
    found = {}
    for path in music.rglob("*"):
        name = path.relative_to(music).as_posix()
        if path.is_file() and re.fullmatch(folder.WANTED, name):
            found[f"{folder.INTO}/{name}"] = path
    if found.keys() != known.keys():
        return True
    for name, path in found.items():
        stat = path.stat()
        if stat.st_size != known[name]["bytes"]:
            return True
        if stat.st_mtime > noted_s and file_sha256(path) != known[name]["sha256"]:
            return True
    return False
