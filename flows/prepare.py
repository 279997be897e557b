"""Prepare: one source as parquet of stems, all in one form."""

from typing import Any

import phalar.prepare
from flows.command import Line, main
from flows.orchestrator import flow, task

make_tracks = task(phalar.prepare.run, name="make tracks")


@flow
def prepare(line: Line) -> Any:
    """Make the tracks of a source and write their stems by split."""
    return make_tracks(line.params, line.source)


if __name__ == "__main__":
    main(prepare, of_source=True)
