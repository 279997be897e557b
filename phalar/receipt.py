"""The receipt of a download folder: each file with address, size and SHA-256; read and verified."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

RECEIPT = "receipt.json"

Record = dict[str, Any]


def read_receipt(folder: Path) -> Record:
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


def verify(folder: Path, receipt: Record, wanted: Record) -> None:
    """Raise `ValueError` with the first reason why a download is not what it should be."""
    if receipt["params"] != wanted:
        raise ValueError(f"{folder} was made with {receipt['params']}, now {wanted} is wanted")
    for file in receipt["files"]:
        if found := fault(folder, file):
            raise ValueError(found)


def fault(folder: Path, file: Record) -> str | None:
    """Say what is wrong with a file of a receipt."""
    path = folder / file["path"]
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file["bytes"] or file_sha256(path) != file["sha256"]:
        return f"{path} has other bytes than the receipt says"
    return None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
