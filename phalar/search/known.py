"""What is known of a sound file beside its vectors: by its name, by its tags, or as heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from phalar.search import estimate, names, tags
from phalar.search.store import NAME, SOUND, TAGS, Entry
from phalar.search.windows import Sound

READINGS = 2
"""Counts how names and tags are read: one more with each change of what is read from either.

By it an update tells a table whose files were read otherwise, and reads their names and tags anew.
Before it was counted, it was 1.
"""

COLUMNS = {"tempo": "tempo_bpm", "key": "key"}


def heard(sound: Sound) -> dict[str, Any]:
    """Give what a sound tells clearly of its tempo and key."""
    clear: dict[str, Any] = {}
    if found := estimate.estimate(sound):
        if found.tempo_clearness >= estimate.SURE_TEMPO:
            clear["tempo"] = found.tempo_bpm
        if found.key_clearness >= estimate.SURE_KEY:
            clear["key"] = found.key
    return clear


def heard_of(entry: Entry) -> dict[str, Any]:
    """Give what was heard when a file of the same content was."""
    return {
        what: getattr(entry, column)
        for what, column in COLUMNS.items()
        if getattr(entry, f"{what}_from") == SOUND
    }


def told_anew(entry: Entry, path: Path) -> Entry:
    """Give a file that is as it was what its name and tags say by the readings of now."""
    if entry.reason is not None:
        return entry
    return replace(entry, **told(entry.path, path, heard_of(entry)))


def told(name: str, path: Path, heard: dict[str, Any]) -> dict[str, Any]:
    """Give the columns of a file: what its name says, or else its tags, or else what was heard.

    A name is what its owner sees and changes, so it goes before the tags.

    Parameters
    ----------
    name : str
        Path below the library's folder, with `/`.
    path : Path
        Where the file lies.
    heard : dict
        From `heard`, or `heard_of`.
    """
    named, tagged = names.read(name), tags.read(path)
    if named.instrument in estimate.WITHOUT_KEY:
        heard = {what: value for what, value in heard.items() if what != "key"}
    columns: dict[str, Any] = {"instrument": named.instrument}
    for what, column in COLUMNS.items():
        said = {NAME: getattr(named, column), TAGS: getattr(tagged, column), SOUND: heard.get(what)}
        known = {source: value for source, value in said.items() if value is not None}
        columns[f"{what}_from"] = next(iter(known), None)
        columns[column] = next(iter(known.values()), None)
    return columns
