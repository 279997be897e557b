"""Download: one source from where it is published, with a receipt of every file."""

from functools import partial
from typing import Any

import phalar.download
from flows import mapping
from flows.command import Line, main
from flows.orchestrator import flow
from phalar import pool

over = mapping.tasks("fetch", of=pool.threads, retries=3)
fetch = partial(phalar.download.run, over=over)


@flow
def download(line: Line) -> Any:
    """Fetch the files of a source, a task each, check them, and write the receipt."""
    return fetch(line.params, line.source)


if __name__ == "__main__":
    main(download, of_source=True)
