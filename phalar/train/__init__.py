"""Stage `train`: fit the model to the rendered pairs, and export the best weights."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from phalar.params import Params, Paths
from phalar.train.launch import supervise

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came out of a training."""

    model: Path
    """Folder of model.safetensors and model.json."""
    steps: int
    best_step: int
    validation: dict[str, float]
    """Top-1 accuracy 0..1 of each source and their mean on the validation trials."""
    run_id: str | None
    """Of MLflow; `None` where it could not be reached."""


def run(params_path: Path, params: Params, paths: Paths, *, resume: bool = False) -> Summary:
    """Train in processes of their own; a training that was interrupted goes on where it was.

    It goes on only if its parameters and its data are the same, to the byte. With others it begins
    anew, says what differs, and leaves the interrupted one in its place; with `resume` it is
    refused.

    Parameters
    ----------
    params_path : Path
        The file that `params` come from; the processes read it again.
    params, paths : Params, Paths
        What to train, on which pairs, and where to put it.
    resume : bool
        Whether to refuse to begin anew.

    Raises
    ------
    launch.TrainingError
        A process failed; one line says why, and names the file of its traceback.
    KeyboardInterrupt, SystemExit
        Stopped by a signal; a checkpoint was saved.
    """
    paths.train.mkdir(parents=True, exist_ok=True)
    errors = paths.train / "checkpoints"
    supervise(params_path, params.train, paths.root, errors=errors, resume=resume)
    record = json.loads((paths.train / "run.json").read_text())
    return Summary(
        model=paths.train,
        steps=record["steps"],
        best_step=record["best_step"],
        validation=record["validation"],
        run_id=record["run_id"],
    )
