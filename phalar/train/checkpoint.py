"""Checkpoints: all that the rest of a training depends on, in one file that explains itself."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from phalar.runlog import flatten

logger = logging.getLogger(__name__)

INPUTS_FILE = "inputs.json"
PATTERN = "step-*.safetensors"
KEEP = 2
"""The one before the newest, too: a disk that breaks may break the newest file."""


@dataclass(slots=True)
class Snapshot:
    """The state of a training between two steps."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    """What is no tensor, as JSON holds it."""


class Checkpoints:
    """The checkpoints of one training, told from those of others by what it was given.

    Parameters
    ----------
    root : Path
        Folder of all trainings' checkpoints.
    inputs : dict
        What a training depends on: its parameters and the digest of its data. Checkpoints of
        other inputs are never gone on from; they stay, and the difference is said.
    writes : bool
        Whether this process is the one that reads and writes; others find and save nothing.
    resume : bool
        Whether to refuse to begin anew. Else a training whose inputs were edited begins anew, as
        the line must after every edit, and a night with new data after one that was killed.

    Raises
    ------
    ValueError
        There is nothing to resume with these inputs; the message names the inputs that differ.
    OSError
        The folder cannot be made or written.
    """

    def __init__(self, root: Path, inputs: dict[str, Any], *, writes: bool, resume: bool) -> None:
        content = json.dumps(inputs, indent=2, sort_keys=True).encode()
        self.folder = root / hashlib.sha256(content).hexdigest()[:16]
        self.writes = writes
        self.resume = resume
        if not writes:
            return
        others = [
            f"{other}: an unfinished training with other inputs ({_difference(other, inputs)})"
            for other in sorted(root.glob("*/"))
            if other.name != self.folder.name and any(other.glob(PATTERN))
        ]
        if resume and not any(self.folder.glob(PATTERN)):
            if not others:
                raise ValueError(f"{root}: no training to resume; begin one without --resume")
            raise ValueError(
                f"{'; '.join(others)}; it is not resumed: go back to those inputs, or begin anew "
                "without --resume"
            )
        for other in others:
            remedy = "go back to those inputs to go on with it, or remove the folder"
            logger.warning("%s; it stays there: %s", other, remedy)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_aside(self.folder / INPUTS_FILE, content)
        except OSError as error:
            raise OSError(
                f"{self.folder}: cannot be written ({error.strerror}); give the folder to this "
                "user or free some space"
            ) from error

    def newest(self) -> Snapshot | None:
        """Read the newest whole checkpoint, `None` where there is none.

        Raises
        ------
        ValueError
            There is none, and one must be resumed.
        """
        if not self.writes:
            return None
        for path in sorted(self.folder.glob(PATTERN), reverse=True):
            try:
                return _read(path)
            except safetensors.SafetensorError as error:
                logger.warning("%s: damaged (%s), the one before it is taken", path, error)
        if self.resume:
            raise ValueError(
                f"{self.folder}: all checkpoints are damaged; begin anew without --resume"
            )
        return None

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot aside, flush it to the disk, and put it in place; old ones go.

        Raises
        ------
        OSError
            It cannot be written; those that were there stay.
        """
        if not self.writes:
            return
        path = self.folder / f"step-{snapshot.step:08d}.safetensors"
        metadata = {"step": str(snapshot.step), "facts": json.dumps(snapshot.facts)}
        tensors = {name: t.detach().cpu().contiguous() for name, t in snapshot.tensors.items()}
        content = safetensors.torch.save(tensors, metadata)
        try:
            write_aside(path, content)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"{path}: cannot be written ({error.strerror}; {len(content) >> 20} MiB wanted, "
                f"{free >> 20} MiB free); free some space and run again, it goes on at "
                f"{self._last_step()}"
            ) from error
        for old in sorted(self.folder.glob(PATTERN))[:-KEEP]:
            old.unlink()

    def remove(self) -> None:
        """Remove all of them: the training is done."""
        if self.writes:
            shutil.rmtree(self.folder)

    def _last_step(self) -> str:
        steps = [int(path.stem.removeprefix("step-")) for path in self.folder.glob(PATTERN)]
        return f"step {max(steps)}" if steps else "the start"


def _read(path: Path) -> Snapshot:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return Snapshot(int(metadata["step"]), tensors, json.loads(metadata["facts"]))


def write_aside(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it to the disk, and rename it."""
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    # The new name itself is on the disk only once its folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _difference(other: Path, inputs: dict[str, Any]) -> str:
    """Name the inputs that differ from those of another training's folder, as in params.yaml."""
    try:
        before = flatten(json.loads((other / INPUTS_FILE).read_text()))
    except (OSError, ValueError):
        return "its inputs are not known"
    now = flatten(inputs)
    changed = _changed(before, now)
    return ", ".join(changed) or "the same inputs in another version"


def _changed(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            yield f"{key} was {before.get(key)}, is {now.get(key)}"
