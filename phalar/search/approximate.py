"""Give a large index its codes, and measure on itself what a search by them finds and misses."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phalar.search import codes, store
from phalar.search.codes import Codes, Floats, Quality
from phalar.search.query import MOST, TOP, Found, Searcher, Wanted
from phalar.search.store import Index

if TYPE_CHECKING:
    from phalar.model import Phalar

logger = logging.getLogger(__name__)

FROM_ROWS = 200_000
"""A larger index gets codes unless told otherwise: an exact search of it takes 25 ms and more."""

UNCODED = 0.02
"""New rows are scanned until they are more than this share; then all get codes anew."""

ASKED = 100
"""So many windows of the index are asked to choose how many candidates are scored, and as many
others to measure."""

AIM, LEAST = 0.985, 0.95
"""What choosing the number of candidates aims at; below the latter, codes are not used."""

CANDIDATES = (125, 180, 250, 350, 500, 700, 1000, 1400, 2000, 2800, 4000, 5600, 8000)


def refresh(folder: Path, model: Phalar) -> None:
    """Make codes where an index shall have them and has none that will do, or remove them.

    Parameters
    ----------
    folder : Path
        Of the index, locked by the caller.
    model : Phalar
        That the index was made with.

    Raises
    ------
    ValueError
        Codes are asked for, and faiss is missing.
    """
    index = store.open_index(folder)
    wanted = index.facts.codes
    if wanted is None:
        wanted = len(index.vectors) >= FROM_ROWS
    name = index.state.codes if wanted else None
    if wanted and not _will_do(index):
        try:
            name = _make(index, model)
        except ImportError:
            if index.facts.codes:
                raise ValueError(
                    "approximate search needs faiss: pip install 'phalar[search]'"
                ) from None
            logger.info("%s: searched exactly; pip install 'phalar[search]' is faster", folder)
            return
    if name != index.state.codes:
        store.write_table(folder, index.entries, replace(index.state, codes=name))
    kept = store.open_index(folder).state.codes
    for other in folder.glob("codes-*"):
        if other.name != kept:
            shutil.rmtree(other)


def _will_do(index: Index) -> bool:
    """Whether the codes that are there cover nearly all rows."""
    if index.state.codes is None:
        return False
    try:
        covered = codes.read_quality(index.folder / index.state.codes).covered
    except ValueError as error:
        logger.warning("%s", error)
        return False
    return len(index.vectors) - covered <= UNCODED * len(index.vectors)


def _make(index: Index, model: Phalar) -> str | None:
    """Fit codes, measure them, and write them into a folder beside the others; give its name.

    None where the index has too few windows in which there is something to hear.
    """
    start = time.monotonic()
    exact = Searcher(index, exact=True)
    rows = exact.heard_rows()
    if len(rows) < codes.LEAST_ROWS:
        logger.log(
            logging.WARNING if index.facts.codes else logging.INFO,
            "%s: %d windows that are not silent, codes need %d or more; searched exactly, which "
            "takes no time here",
            index.folder,
            len(rows),
            codes.LEAST_ROWS,
        )
        return None
    rng = np.random.default_rng(1)
    made = codes.fit(index.vectors, rows, rng=rng)
    query_map = np.asarray(model.similarity.query_map().cpu().numpy(), np.float32)
    chosen = rng.choice(made.rows, min(2 * ASKED, len(made.rows)), replace=False)
    quality = measure(exact, made, index.vectors[chosen] @ query_map, chosen)
    numbers = [int(path.name.rpartition("-")[2]) for path in index.folder.glob("codes-*[0-9]")]
    name = f"codes-{max(numbers, default=-1) + 1}"
    made.save(index.folder / name, quality)
    logger.info(
        "%s: codes of %d windows find %.1f %% of what an exact search finds; %s (%.0f s)",
        index.folder,
        len(made.rows),
        100 * quality.recall,
        f"{quality.candidates} candidates" if quality.candidates else "it stays exact",
        time.monotonic() - start,
    )
    return name


def measure(exact: Searcher, made: Codes, queries: Floats, rows: NDArray[np.integer]) -> Quality:
    """Choose how many candidates are scored, and measure what is found so.

    Parameters
    ----------
    exact : Searcher
        Of the index, without codes.
    made : Codes
        Of that index.
    queries : float32 array [shape=(2n, 1024)]
        From `query_vectors`; the first half is chosen by, the second measured with.
    rows : int array [shape=(2n,)]
        The row that each query is of: its own file is no find. -1 where it is of none.

    Returns
    -------
    Quality
    """
    best = exact.search(list(queries[:, None]), Wanted(TOP + 1))
    truth = [_without_own(found, exact, row) for found, row in zip(best, rows, strict=True)]
    half = len(queries) // 2
    near = Searcher(exact.index, exact=True)
    near.codes = made

    def recall(candidates: int, asked: slice) -> float:
        # One more file than usual is asked for, because one is the query's own.
        near.candidates = candidates * TOP // (TOP + 1)
        shares = []
        for query, row, best in zip(queries[asked], rows[asked], truth[asked], strict=True):
            found = _without_own(near.search([query[None]], Wanted(TOP + 1))[0], exact, row)
            shares.append(len(set(found) & set(best)) / max(len(best), 1))
        return float(np.mean(shares))

    some = [n for n in CANDIDATES if n < len(made.rows) // MOST]
    enough = next((n for n in some if recall(n, slice(half)) >= AIM), some[-1])
    found = recall(enough, slice(half, None))
    covered = len(exact.index.vectors)
    return Quality(covered, enough if found >= LEAST else None, found, len(queries) - half)


def _without_own(found: list[Found], searcher: Searcher, row: int) -> list[str]:
    """Paths of the best files but that of a row."""
    own = searcher.path_of(int(row)) if row >= 0 else None
    return [each.entry.path for each in found if each.entry.path != own][:TOP]
