"""Short codes of the vectors of a large index: which of them may fit is told without reading all.

A vector of 4 KB becomes a code of 64 bytes: it is cut into 128 pieces, and each is one of 16. A
query's products with all pieces are a small table, from which the product with every code is summed
in registers. What the codes put first is scored exactly by whoever asked.

Letters: W windows of a query, R rows of the index, K candidates.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phalar.model.similarity import SEARCH_DIMENSIONS
from phalar.search import store, writing
from phalar.search.store import Index

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

PIECES = 128
KIND = f"PQ{PIECES}x4fs"
"""Product quantisation to four bits, laid out for registers (André et al., VLDB 2015)."""

LEARNED_ROWS = 65_536
"""The pieces are learned from so many vectors at most: 268 MB."""

LEAST_ROWS = 1_000
"""Fewer do not say what the 16 kinds of a piece are."""

MEND = "`phalar index update` makes them anew, and `phalar search --exact` searches without"

CODES, ROWS, FACTS = "codes.faiss", "rows.npy", "facts.json"


@dataclass(frozen=True, slots=True)
class Quality:
    """How well the codes of an index find what an exact search finds, as measured on itself."""

    covered: int
    """Those of `Codes`."""
    candidates: int | None
    """So many of each window are scored exactly for ten files; None where codes are no good."""
    recall: float
    """Of the ten best files of an exact search, how many were found, 0 to 1."""
    asked: int
    """By how many queries that was measured, others than `candidates` was chosen by."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of the first rows of an index."""

    index: Any
    """A faiss index."""
    rows: NDArray[np.int32]
    """Row of the vectors of each code."""
    covered: int
    """The rows of the index up to here have codes, apart from silent ones."""

    def nearest(self, queries: Floats, count: int) -> NDArray[np.int64]:
        """Give the rows (W, K) that the codes put first for each window (W, 1024) of a query."""
        _, places = self.index.search(queries, min(count, len(self.rows)))
        return np.asarray(self.rows[places], np.int64)

    def save(self, folder: Path, quality: Quality) -> None:
        """Write them into a folder of their own: aside, then into place."""
        import faiss

        aside = folder.with_name(f"{folder.name}.part")
        found = {name: getattr(quality, name) for name in Quality.__slots__}
        with writing.told(folder.parent):
            try:
                aside.mkdir(exist_ok=True)
                faiss.write_index(self.index, str(aside / CODES))
                np.save(aside / ROWS, self.rows)
                (aside / FACTS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                aside.replace(folder)
            except (OSError, RuntimeError) as error:
                shutil.rmtree(aside, ignore_errors=True)
                raise OSError(getattr(error, "errno", None), str(error)[:200]) from error


def fit(vectors: Floats, rows: NDArray[np.int32], *, rng: np.random.Generator) -> Codes:
    """Learn codes from some of the rows, and give all of these rows theirs.

    Parameters
    ----------
    vectors : float32 array [shape=(R, 1024)]
        Of the index; mapped is enough.
    rows : int32 array
        Which of them get codes, `LEAST_ROWS` or more.
    rng : np.random.Generator
        Draws the rows that are learned from.
    """
    import faiss

    index = faiss.index_factory(SEARCH_DIMENSIONS, KIND, faiss.METRIC_INNER_PRODUCT)
    learned = rng.choice(rows, min(LEARNED_ROWS, len(rows)), replace=False)
    index.train(np.asarray(vectors[np.sort(learned)]))
    for first in range(0, len(rows), LEARNED_ROWS):
        index.add(np.asarray(vectors[rows[first : first + LEARNED_ROWS]]))
    return Codes(index, rows, len(vectors))


def of(index: Index) -> tuple[Codes | None, Quality | None]:
    """Open the codes of an index, if it has any that are good for something.

    The file of the codes is mapped. Without faiss there are none, with a warning; nor where an
    update has replaced them since the index was opened, which is searched exactly then.

    Raises
    ------
    ValueError
        They are damaged.
    """
    if index.state.codes is None:
        return None, None
    try:
        return _open(index.folder / index.state.codes)
    except ValueError:
        if _are_current(index):
            raise
        logger.info("%s: new codes since it was opened; searched exactly", index.folder)
        return None, None


def quality_of(index: Index) -> Quality | None:
    """Say how good the codes of an index are; errors, and None, are as those of `of`."""
    if index.state.codes is None:
        return None
    try:
        return read_quality(index.folder / index.state.codes)
    except ValueError:
        if _are_current(index):
            raise
        return None


def _are_current(index: Index) -> bool:
    """Whether the table still names the codes that it named when the index was opened."""
    try:
        return store.read_state(index.folder).codes == index.state.codes
    except (OSError, ValueError, KeyError, TypeError):
        # What is wrong with the table is no news of the codes.
        return True


def _open(folder: Path) -> tuple[Codes | None, Quality]:
    quality = read_quality(folder)
    if quality.candidates is None:
        return None, quality
    try:
        import faiss

        codes = faiss.read_index(str(folder / CODES), faiss.IO_FLAG_MMAP_IFC)
        rows = np.load(folder / ROWS, mmap_mode="r")
    except ImportError:
        logger.warning("no faiss: searched exactly; pip install 'phalar[search]' is faster")
        return None, quality
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{folder}: damaged codes ({str(error)[:200]}); {MEND}") from error
    return Codes(codes, rows, quality.covered), quality


def read_quality(folder: Path) -> Quality:
    """Read how good the codes in a folder are; errors are those of `of`."""
    try:
        return Quality(**json.loads((folder / FACTS).read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: damaged codes ({error}); {MEND}") from error
