"""Train: weights from the rendered pairs."""

import os
from typing import Any

import phalar.train
from flows.command import Line, main
from flows.orchestrator import flow, task
from phalar.params import Paths

CHECKPOINTS = "PHALAR_CHECKPOINTS"
"""Environment variable: where checkpoints are kept if the folder of the data will not last."""

fit = task(phalar.train.run, name="fit")


@flow
def train(line: Line) -> Any:
    """Fit the model, on as many devices as there are, and export it."""
    _keep_checkpoints(line.params.paths)
    return fit(line.params_path, line.params, line.params.paths, resume=line.resume)


def _keep_checkpoints(paths: Paths) -> None:
    """Let checkpoints outlive the folder of an experiment: what was stopped goes on from them."""
    own, kept = paths.train / "checkpoints", os.environ.get(CHECKPOINTS)
    if kept and not own.exists():
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(kept, target_is_directory=True)


if __name__ == "__main__":
    main(train, can_resume=True)
