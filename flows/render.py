"""Render: shards of pairs to train on, and frozen trials to evaluate on."""

from typing import Any

import phalar.render
from flows.command import Line, main
from flows.orchestrator import flow, task

draw_pairs = task(phalar.render.run, name="draw pairs")


@flow
def render(line: Line) -> Any:
    """Draw pairs from all sources and write them as shards."""
    return draw_pairs(line.params, line.params.paths)


if __name__ == "__main__":
    main(render)
