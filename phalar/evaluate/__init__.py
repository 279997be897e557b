"""Judge a trained model on frozen trials and report it beside chance and baselines."""

from __future__ import annotations

from typing import Any

from phalar.params import Params, Paths


def run(params: Params, paths: Paths) -> dict[str, Any]:
    """Hear every test pair once, score the frozen trials, write metrics, curve, plot and report.

    Raises
    ------
    ValueError
        The model, the pairs or the trials are missing, damaged, or do not fit each other.
    """
    # Training scores its validation with `retrieval`, and must not import the rest for that.
    from phalar.evaluate.stage import evaluate

    return evaluate(params, paths)
