"""Two models on the same trials: the difference, its interval, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from phalar.evaluate.bootstrap import Bootstrap
from phalar.evaluate.ranks import QUESTION, TRIAL_COLUMNS

KEY = ("source", "protocol", "candidates")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Top-1 accuracy of two models on the trials of one source, protocol and K, as fractions."""

    source: str
    protocol: str
    candidates: int
    a: float
    b: float
    difference: float
    """a - b: above zero where `a` is better."""
    low: float
    high: float
    """Ends of the 95 % interval of the difference, for other songs of the same kind."""
    p: float
    """Two-sided; below 0.05 just where the interval leaves out zero."""
    trials: int
    songs: int


def compare(
    a: pa.Table, b: pa.Table, *, resamples: int, seed: int, asks: str = "anchor"
) -> list[Comparison]:
    """Compare two models by a paired bootstrap over songs.

    Both answered the same trials, so what one trial has of luck or difficulty falls out of the
    difference. Whole songs are drawn, since the trials of a song stand or fall together.

    Parameters
    ----------
    a, b : pyarrow.Table
        Ranks of each model as `ranks.read` gives them.
    resamples : int
        Bootstrap resamples; `evaluate.bootstrap`.
    seed : int
        Decides the resamples; `evaluate.seed`.
    asks : {"anchor", "positive"}
        Which side looks for its other.

    Returns
    -------
    list of Comparison
        One for each source, protocol and K, in the order of the metrics.

    Raises
    ------
    ValueError
        The models were not asked the same.

    Examples
    --------
    A gate that lets nothing pass that is worse beyond doubt::

        found = compare(ranks.read(new), ranks.read(old), resamples=10_000, seed=1)
        refused = [c for c in found if c.protocol == "paper" and c.high < 0]
    """
    _check_same_question(a, b)
    both = a.append_column("rank_b", b["rank"]).filter(pc.field("asks") == asks)
    draw = partial(Bootstrap, resamples=resamples, seed=seed)
    keys = dict.fromkeys(zip(*(both[name].to_pylist() for name in KEY), strict=True))
    return [_compare(both, *key, draw=draw) for key in keys]


def _check_same_question(a: pa.Table, b: pa.Table) -> None:
    first, second = (table.schema.metadata[QUESTION].decode() for table in (a, b))
    same = first == second and a.select(TRIAL_COLUMNS).equals(b.select(TRIAL_COLUMNS))
    if not same:
        raise ValueError(
            f"compare: the models were asked different trials ({first[:8]} and {second[:8]}), "
            f"which says nothing; evaluate both on the same rendered pairs and evaluate.clip_s"
        )


def _compare(
    both: pa.Table,
    source: str,
    protocol: str,
    candidates: int,
    *,
    draw: Callable[[list[str]], Bootstrap],
) -> Comparison:
    """Compare two models on the trials of one source, protocol and K."""
    here = pc.field("source") == source
    here &= pc.field("protocol") == protocol
    here &= pc.field("candidates") == candidates
    table = both.filter(here)
    hits_a, hits_b = (table[name].to_numpy() == 0 for name in ("rank", "rank_b"))
    differences = hits_a.astype(float) - hits_b
    bootstrap = draw(table["song"].to_pylist())
    low, high = bootstrap.mean(differences, bounds=(-1.0, 1.0))
    return Comparison(
        source,
        protocol,
        candidates,
        a=float(hits_a.mean()),
        b=float(hits_b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=bootstrap.p_value(differences),
        trials=len(differences),
        songs=bootstrap.songs,
    )
