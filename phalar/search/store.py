"""The index on disk: a table of files, and a matrix of vectors that is mapped into memory.

Vectors are only ever added at the end of their file; replacing the table is what makes a state the
current one. So an update can be killed at any moment, and an opened index stays as it was: rows
that were committed are never written again, nor cut off.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phalar.model.similarity import SEARCH_DIMENSIONS
from phalar.search import writing
from phalar.search.windows import Grid

FORMAT = 2
FOLDER = ".phalar"
"""Where the index of a folder lies unless told otherwise: within it."""

NAME, TAGS, SOUND = "name", "tags", "sound"
"""Who tells a tempo or a key; of the last it is an estimate."""

FACTS, TABLE = "index.json", "files.parquet"

TRIES = 3
"""So often an index is opened anew that is replaced while it is opened."""

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("seconds", pa.float64()),
        ("first", pa.int64()),
        ("windows", pa.int32()),
        ("silent", pa.list_(pa.int32())),
        ("instrument", pa.string()),
        ("tempo_bpm", pa.float32()),
        ("tempo_from", pa.string()),
        ("key", pa.string()),
        ("key_from", pa.string()),
        ("reason", pa.string()),
    ]
)
"""One row a file, in order of path."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the library."""

    path: str
    """Below the library's folder, with `/`."""
    sha256: str
    bytes: int
    modified_ns: int
    seconds: float
    first: int
    """Row of its first vector; files of the same content share theirs."""
    windows: int
    """How many vectors it has; 0 for a file that is not heard."""
    silent: tuple[int, ...]
    """Windows in which there is nothing to hear."""
    instrument: str | None = None
    tempo_bpm: float | None = None
    tempo_from: str | None = None
    """`NAME`, `TAGS` or `SOUND`."""
    key: str | None = None
    key_from: str | None = None
    reason: str | None = None
    """Why it is not heard; None where it is."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an index is made with.

    Weights and grid are those that all was heard with, and stay until all is heard anew; the
    library may move, the model have another name, and codes be asked for or not.
    """

    library: Path
    """The folder whose files are indexed."""
    model: str
    """How the model was named."""
    model_sha256: str
    """Digest of its weights: vectors of different models cannot be compared."""
    grid: Grid
    codes: bool | None = None
    """Whether it has codes, for approximate search; None: when it is large."""


@dataclass(frozen=True, slots=True)
class State:
    """What a table says of the files beside it."""

    vectors: str = "vectors-0.f32"
    rows: int = 0
    """How many vectors have been committed, those of files that are gone included."""
    codes: str | None = None
    """Folder of the codes of the vectors; see `codes`."""
    readings: int = 1
    """By which names and tags were read; see `known.READINGS`."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index as it was when it was opened."""

    folder: Path
    facts: Facts
    entries: list[Entry]
    vectors: NDArray[np.float32]
    """(rows, 1024), mapped; see `Phalar.search_vectors`."""
    state: State

    def path_of(self, entry: Entry) -> Path:
        """Give the file of an entry."""
        return self.facts.library / entry.path


def locate(place: str | os.PathLike[str]) -> Path:
    """Give the folder of an index: `.phalar` within the place, or the place itself."""
    path = Path(place)
    # A library may have a file of its own that is called as that of an index.
    beside = ((path / name).is_file() for name in (TABLE, writing.LOCK))
    is_index = (path / FACTS).is_file() and any(beside)
    return path if is_index and not (path / FOLDER / FACTS).is_file() else path / FOLDER


def open_index(place: str | os.PathLike[str]) -> Index:
    """Open an index by its folder, or by the folder of the library that it lies in.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is damaged, or of another version.
    """
    folder = locate(place)
    for _ in range(TRIES):
        facts = read_facts(folder)
        try:
            return _open(folder, facts)
        except FileNotFoundError as error:
            # It may be that an update has just put another in its place.
            missing = error
    raise _damaged(folder, missing) from missing


def _open(folder: Path, facts: Facts) -> Index:
    try:
        table = pq.read_table(folder / TABLE)
        if not table.schema.equals(SCHEMA):
            raise ValueError(f"{TABLE} has other columns")
        state = _state(table.schema)
        entries = [Entry(**{**row, "silent": tuple(row["silent"])}) for row in table.to_pylist()]
        vectors = map_vectors(folder / state.vectors)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        # Of what is damaged the table's reader says so without a number.
        if error.errno is None:
            raise _damaged(folder, error) from error
        raise OSError(f"{folder}: cannot be read ({error.strerror}); see to the disk") from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    if state.rows > len(vectors):
        raise ValueError(
            f"{folder}: {len(vectors)} vectors, its table names {state.rows}; it is damaged, "
            "run `phalar index build` with --anew"
        )
    return Index(folder, facts, entries, vectors[: state.rows], state)


def _damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder}: damaged index ({error}); run `phalar index build` with --anew")


def read_state(folder: Path) -> State:
    """Read what the table of an index says now of the files beside it."""
    return _state(pq.read_schema(folder / TABLE))


def _state(schema: pa.Schema) -> State:
    return State(**json.loads(schema.metadata[b"state"]))


def read_facts(folder: Path) -> Facts:
    """Read what an index was made with; errors are those of `open_index`."""
    try:
        found = json.loads((folder / FACTS).read_bytes())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
        grid = Grid(found["window_s"], found["hop_s"])
        library = _library(folder, found["library"])
        return Facts(library, found["model"], found["model_sha256"], grid, found["codes"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder}: no index there; make one with `phalar index build DIR`"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / FACTS}: damaged ({error}); run `phalar index build` with --anew"
        ) from error


def _library(folder: Path, relative: str) -> Path:
    """Give the library that an index names relative to its own folder, in the caller's words.

    Where the folder is a link to another disk these lead elsewhere, and its real place counts.
    """
    real = Path(os.path.normpath(folder.resolve() / relative))
    called = Path(os.path.normpath(folder / relative))
    return called if called.resolve() == real else real


def write_facts(folder: Path, facts: Facts) -> None:
    """Write what an index is made with; the library is named relative to it, so both can move."""
    found = {
        "format": FORMAT,
        "library": os.path.relpath(facts.library.resolve(), folder.resolve()),
        "model": facts.model,
        "model_sha256": facts.model_sha256,
        "window_s": facts.grid.window_s,
        "hop_s": facts.grid.hop_s,
        "codes": facts.codes,
    }
    writing.put(folder / FACTS, (json.dumps(found, indent=1) + "\n").encode())


def write_table(folder: Path, entries: list[Entry], state: State) -> None:
    """Make this the state of the index: from here on it is what is opened."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    columns = {f.name: [getattr(entry, f.name) for entry in ordered] for f in fields(Entry)}
    table = pa.table(columns, schema=SCHEMA).replace_schema_metadata(
        {"state": json.dumps(asdict(state))}
    )
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    writing.put(folder / TABLE, content.getvalue())


def begin(folder: Path, facts: Facts, state: State) -> None:
    """Make an index an empty one, with a file of vectors that no other index of this folder had.

    Killed in between, it is an empty one of the old facts: never are there vectors of one model
    under the name of another.
    """
    with writing.told(folder):
        (folder / state.vectors).touch()
    write_table(folder, [], state)
    write_facts(folder, facts)


def map_vectors(path: Path) -> NDArray[np.float32]:
    """Map the whole rows of a file of vectors; what follows the last is of an update cut short."""
    rows = path.stat().st_size // (4 * SEARCH_DIMENSIONS)
    if rows == 0:
        return np.empty((0, SEARCH_DIMENSIONS), np.float32)
    return np.memmap(path, np.float32, "r", shape=(rows, SEARCH_DIMENSIONS))
