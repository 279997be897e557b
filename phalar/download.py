"""Stage `download`: fetch a source once, and say of each file where it is from."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalar import pool, sources
from phalar.params import Params
from phalar.receipt import RECEIPT, Record, file_sha256, read_receipt, verify

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """What lies in a source's download folder after the stage."""

    source: str
    files: int
    size_bytes: int
    fetched: bool
    """False where everything was there and whole."""


def run(params: Params, source: str, *, over: pool.Over = pool.threads) -> Summary:
    """Fetch a source aside and put it into place, unless it is there and whole.

    Pieces of a published source are fetched several at once; what an earlier run got of them, or
    what is still whole of a damaged download, is kept.

    Parameters
    ----------
    params : Params
    source : str
    over : callable
        What runs the transfers: `pool.threads`, or a stand-in that also records them.

    Raises
    ------
    ValueError
        There is no such source, or an archive is not safe to unpack.
    OSError
        It cannot be fetched, is not what params.yaml says, or cannot be written.
    """
    module: Any = sources.load(source)
    folder = params.paths.download(source)
    section = getattr(params.download, source)
    wanted = section.model_dump(mode="json")
    if folder.exists():
        try:
            receipt = read_receipt(folder)
            verify(folder, receipt, wanted)
        except ValueError as error:
            logger.info("download %s: %s", source, str(error).partition(";")[0])
        else:
            return _summary(receipt, fetched=False)
    aside = _open_aside(folder)
    receipt = {
        "source": source,
        "params": wanted,
        "licence": module.LICENCE,
        "credits": module.CREDITS,
    }
    if hasattr(module, "pieces"):
        pieces = module.pieces(section, params.paths.root.parent)
        receipt |= module.obtain(pieces, aside, params.download.fetch, over=over)
        receipt["files"] = [file | {"licence": module.LICENCE} for file in receipt["files"]]
    else:
        files = module.download(section, aside)
        receipt["files"] = [
            {
                "path": file.path,
                "url": file.url,
                "licence": module.LICENCE,
                "bytes": (aside / file.path).stat().st_size,
                "sha256": file_sha256(aside / file.path),
            }
            for file in files
        ]
    part = aside / f"{RECEIPT}.part"
    part.write_text(json.dumps(receipt, indent=1) + "\n")
    part.replace(aside / RECEIPT)
    _drop_others(aside, receipt)
    aside.replace(folder)
    return _summary(receipt, fetched=True)


def _open_aside(folder: Path) -> Path:
    """Make the folder for what is not whole; it starts with what there is of a damaged download."""
    aside = folder.with_name(folder.name + ".part")
    if folder.exists() and not aside.exists():
        folder.replace(aside)
    elif folder.exists():
        shutil.rmtree(folder)
    aside.mkdir(parents=True, exist_ok=True)
    return aside


def _drop_others(folder: Path, receipt: Record) -> None:
    """Remove what an earlier try left and the receipt does not name."""
    named = {RECEIPT, *(file["path"] for file in receipt["files"])}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _summary(receipt: Record, *, fetched: bool) -> Summary:
    files = receipt["files"]
    return Summary(receipt["source"], len(files), sum(file["bytes"] for file in files), fetched)
