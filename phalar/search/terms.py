"""On what terms an index is updated: with its model and windows, of its library, which may move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from phalar.search import store
from phalar.search.hear import file_sha256
from phalar.search.look import Seen, sound_files
from phalar.search.store import Entry, Facts, State
from phalar.search.windows import Grid

LOOKED_FOR = 32
"""So many files of a library that moved are compared by their bytes."""

MOST = 0.5
"""A library is the one that was heard if more than this share of them is there unchanged."""


def agree(
    folder: Path,
    entries: list[Entry],
    *,
    library: Path,
    model_name: str,
    model_sha256: str,
    grid: Grid | None,
) -> Facts:
    """Give the facts of an index after an update with this library, model and grid.

    The model may have another name now, and the library another place.

    Raises
    ------
    ValueError
        The index was made with another model or grid, or of another library.
    """
    facts = store.read_facts(folder)
    if facts.model_sha256 != model_sha256:
        raise ValueError(
            f"{folder}: made with the model {facts.model} ({facts.model_sha256[:12]}), not "
            f"{model_name} ({model_sha256[:12]}); name that one with --model, or hear all with "
            "this one: `phalar index build` with --anew"
        )
    if grid not in (None, facts.grid):
        raise ValueError(
            f"{folder}: has windows of {facts.grid.window_s:g} s every {facts.grid.hop_s:g} s; "
            "others need all to be heard again: `phalar index build` with --anew"
        )
    if facts.library.resolve() != library.resolve():
        _refuse_another(folder, facts.library, library, entries)
        facts = replace(facts, library=library.resolve())
    return replace(facts, model=model_name)


def known(folder: Path, *, damaged_is_none: bool) -> tuple[list[Entry], State]:
    """Give what is known; an index that has just been made may have no table yet."""
    if not (folder / store.TABLE).is_file():
        return [], State()
    try:
        index = store.open_index(folder)
    except (OSError, ValueError):
        if damaged_is_none:
            return [], State()
        raise
    return index.entries, index.state


def refuse_missing(library: Path, folder: Path) -> None:
    """Refuse a library that is no folder; where it was heard, say how its index follows it.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    """
    if library.is_dir():
        return
    mend = "give the folder of your stems"
    if (folder / store.FACTS).is_file() and _is_of(folder, library):
        mend = f"where it is now: `phalar index build DIR --index {folder}` keeps what was heard"
    raise FileNotFoundError(f"{library}: no such folder; {mend}")


def refuse_nothing(library: Path, seen: Seen, entries: list[Entry]) -> None:
    """Refuse to forget a whole library: rather is its disk not there than all of it gone.

    Raises
    ------
    ValueError
        Nothing is there, and files are known.
    """
    heard = sum(entry.windows > 0 for entry in entries)
    if heard and not (seen.there or seen.refused or seen.unread or seen.unlisted):
        raise ValueError(
            f"{library}: no sound there, but known files of it: {heard}; mount its disk, or "
            "forget them with --forget"
        )


def _is_of(folder: Path, library: Path) -> bool:
    return store.read_facts(folder).library.resolve() == library.resolve()


def _refuse_another(folder: Path, old: Path, new: Path, entries: list[Entry]) -> None:
    """Refuse a library that is not the one that was heard, at another place."""
    if next(sound_files(old), None) is not None:
        raise ValueError(
            f"{folder}: is the index of {old}, not of {new}; name another folder for this one's "
            "with --index"
        )
    heard = [entry for entry in entries if entry.windows]
    some = heard[:: -(-len(heard) // LOOKED_FOR) or 1]
    there = sum(_is_same(new / entry.path, entry) for entry in some)
    if there <= MOST * len(some) and some:
        raise ValueError(
            f"{folder}: is the index of {old}, where nothing is now; of {len(some)} of its files "
            f"{there} are in {new}: it is another library, name another folder for its index with "
            "--index"
        )


def _is_same(path: Path, entry: Entry) -> bool:
    """Whether a file is the one of an entry, by its bytes."""
    try:
        return path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256
    except OSError:
        return False
