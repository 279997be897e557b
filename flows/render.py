"""Render: shards of pairs to train on, and frozen trials to evaluate on."""

from typing import Any

import phalar.render
from flows import mapping
from flows.command import Line, main
from flows.orchestrator import flow


@flow
def render(line: Line) -> Any:
    """Draw pairs from all sources and write them as shards, a few tracks a task."""
    over = mapping.tasks("mix and seal", runner=line.params.render.runner)
    return phalar.render.run(line.params, line.params.paths, over=over)


if __name__ == "__main__":
    main(render)
