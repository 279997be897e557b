"""Tracks that are withdrawn: withdrawn.yaml names them, and render leaves them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = "withdrawn.yaml"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Why and when a track was withdrawn."""

    reason: str
    date: str
    """ISO 8601."""


def read(project: Path) -> dict[str, Withdrawal]:
    """Give the withdrawn tracks of a project by `source/track`; none where there is no file.

    Raises
    ------
    ValueError
        The file is not a list of track, reason and date: a request must not be lost on a typo.
    """
    path = project / FILE
    if not path.is_file():
        return {}
    try:
        rows = yaml.safe_load(path.read_text()) or []
        found = {
            str(row["track"]): Withdrawal(str(row["reason"]), str(row["date"])) for row in rows
        }
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged ({' '.join(str(error).split())}); must be a list of track, reason "
            "and date, as `phalar withdraw` writes it"
        ) from None
    for name in found:
        if "/" not in name:
            raise ValueError(f"{path}: track {name!r} must be SOURCE/TRACK")
    return found


def add(project: Path, name: str, withdrawal: Withdrawal) -> None:
    """Append a track, below what stands in the file."""
    row = {"track": name, "reason": withdrawal.reason, "date": withdrawal.date}
    # One write at the end: two requests at once lose neither.
    with (project / FILE).open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([row], sort_keys=False, allow_unicode=True))
