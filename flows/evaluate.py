"""Evaluate: accuracy on the frozen trials, beside chance and baselines."""

from typing import Any

import phalar.evaluate
from flows import summary
from flows.command import Line, main
from flows.orchestrator import flow, task

measure = task(phalar.evaluate.run, name="measure")
publish = task(summary.publish, name="publish")


@flow
def evaluate(line: Line) -> Any:
    """Measure the exported model, and show its accuracy in Prefect too."""
    measured = measure(line.params, line.params.paths)
    publish(line.params.paths)
    return measured


if __name__ == "__main__":
    main(evaluate)
