"""Prepare: one source as parquet of stems, all in one form."""

from functools import partial
from typing import Any

import phalar.prepare
from flows import mapping
from flows.command import Line, main
from flows.orchestrator import flow

make_tracks = partial(phalar.prepare.run, over=mapping.tasks("make tracks"))


@flow
def prepare(line: Line) -> Any:
    """Make the tracks of a source, a few a task, and write their stems by split."""
    return make_tracks(line.params, line.source)


if __name__ == "__main__":
    main(prepare, of_source=True)
