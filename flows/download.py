"""Download: one source from where it is published, with a receipt of every file."""

from typing import Any

import phalar.download
from flows.command import Line, main
from flows.orchestrator import flow, task

fetch = task(phalar.download.run, name="fetch", retries=3)


@flow
def download(line: Line) -> Any:
    """Fetch the files of a source, check them, and write the receipt."""
    return fetch(line.params, line.source)


if __name__ == "__main__":
    main(download, of_source=True)
