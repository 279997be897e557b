"""Train: weights from the rendered pairs."""

from typing import Any

import phalar.train
from flows import checkpoints
from flows.command import Line, main
from flows.orchestrator import flow, task

fit = task(phalar.train.run, name="fit")


@flow
def train(line: Line) -> Any:
    """Fit the model, on as many devices as there are, and export it."""
    checkpoints.keep(line.params.paths)
    return fit(line.params_path, line.params, line.params.paths, resume=line.resume)


if __name__ == "__main__":
    main(train, can_resume=True)
