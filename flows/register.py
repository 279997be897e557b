"""Register: a version of the model, with its lineage and its card."""

from typing import Any

import phalar.register
from flows.command import Line, main
from flows.orchestrator import flow, task

add_version = task(phalar.register.run, name="add version")


@flow
def register(line: Line) -> Any:
    """Pass the gate, and enter the model in the registry."""
    return add_version(line.params, line.params.paths)


if __name__ == "__main__":
    main(register)
