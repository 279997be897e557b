"""Stage `download`: fetch a source once, and say of each file where it is from."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalar import sources
from phalar.params import Params

logger = logging.getLogger(__name__)

RECEIPT = "receipt.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """What lies in a source's download folder after the stage."""

    source: str
    files: int
    size_bytes: int
    fetched: bool
    """False where everything was there and whole."""


def run(params: Params, source: str) -> Summary:
    """Fetch a source aside and put it into place, unless it is there and whole.

    Raises
    ------
    ValueError
        There is no such source.
    OSError
        It cannot be fetched, is not what params.yaml says, or cannot be written.
    """
    module = sources.load(source)
    folder = params.paths.download(source)
    wanted = getattr(params.download, source).model_dump(mode="json")
    try:
        receipt = read_receipt(folder)
        verify(folder, receipt, wanted)
    except ValueError as error:
        logger.info("download %s: %s", source, error)
    else:
        return _summary(receipt, fetched=False)
    aside = folder.with_name(folder.name + ".part")
    aside.mkdir(parents=True, exist_ok=True)
    files = module.download(getattr(params.download, source), aside)
    receipt = {
        "source": source,
        "params": wanted,
        "licence": module.LICENCE,
        "credits": module.CREDITS,
        "files": [
            {
                "path": file.path,
                "url": file.url,
                "licence": module.LICENCE,
                "bytes": (aside / file.path).stat().st_size,
                "sha256": _sha256(aside / file.path),
            }
            for file in files
        ],
    }
    (aside / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n")
    _drop_others(aside, receipt)
    if folder.exists():
        shutil.rmtree(folder)
    aside.replace(folder)
    return _summary(receipt, fetched=True)


def read_receipt(folder: Path) -> dict[str, Any]:
    """Read the receipt of a download folder.

    Raises
    ------
    ValueError
        It is missing or damaged.
    """
    path = folder / RECEIPT
    try:
        receipt = json.loads(path.read_text())
        _ = receipt["source"], receipt["params"]
        _ = [(file["path"], file["bytes"], file["sha256"]) for file in receipt["files"]]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run the download stage of this source") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it and run download") from None
    return dict(receipt)


def verify(folder: Path, receipt: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `ValueError` with the first reason why a download is not what it should be."""
    if receipt["params"] != wanted:
        raise ValueError(f"{folder} was made with {receipt['params']}, now {wanted} is wanted")
    for file in receipt["files"]:
        path = folder / file["path"]
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if path.stat().st_size != file["bytes"] or _sha256(path) != file["sha256"]:
            raise ValueError(f"{path} has other bytes than the receipt says")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop_others(folder: Path, receipt: dict[str, Any]) -> None:
    """Remove what an earlier try left and the receipt does not name."""
    named = {RECEIPT, *(file["path"] for file in receipt["files"])}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _summary(receipt: dict[str, Any], *, fetched: bool) -> Summary:
    files = receipt["files"]
    return Summary(receipt["source"], len(files), sum(file["bytes"] for file in files), fetched)
