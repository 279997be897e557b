"""Checkpoints of an experiment lie in the project: its own folder goes when it is stopped."""

from __future__ import annotations

import os

from phalar.params import Paths

CHECKPOINTS = "PHALAR_CHECKPOINTS"
"""Environment variable: where checkpoints are kept if the folder of the data will not last."""


def keep(paths: Paths) -> None:
    """Put a link where the training keeps its checkpoints, if they are to lie elsewhere."""
    own, kept = paths.train / "checkpoints", os.environ.get(CHECKPOINTS)
    if kept and not own.exists():
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(kept, target_is_directory=True)
