"""Withdraw a track: out of the next render, and a mark on every model that learned from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow.parquet as pq

from phalar import registry, withdrawn
from phalar.lineage import trace
from phalar.params import Paths
from phalar.registry import champion
from phalar.withdrawn import Withdrawal

LEARNED = ("train", "valid")
"""Splits that shape a model: valid chooses its weights."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A registered model that saw the track."""

    model: str
    split: str
    pairs: int
    verdict: str
    """What must happen: train it again, or only evaluate it again."""


@dataclass(slots=True)
class Done:
    """What a withdrawal did."""

    track: str
    new: bool
    """False where it was withdrawn already; the marks are set again all the same."""
    models: list[Effect] = field(default_factory=list)
    siblings: list[str] = field(default_factory=list)
    """Other prepared tracks of the same song, which stay."""
    unknown: list[str] = field(default_factory=list)
    """What could not be searched."""


def withdraw(track: str, reason: str, paths: Paths) -> Done:
    """Record a withdrawal in withdrawn.yaml, and mark the registered models that saw the track.

    Raises
    ------
    ValueError
        Neither the prepared tracks nor any registered model know it, or there is no reason.
    """
    if not reason.strip():
        raise ValueError(f"withdraw {track}: the reason is empty; whoever reads it later needs one")
    project = paths.root.parent
    found = trace.find(trace.Wanted(track=track), paths)
    prepared = dict(_songs(track.partition("/")[0], paths))
    name = track.partition("/")[2]
    known = withdrawn.read(project)
    if not found.places and name not in prepared and track not in known:
        raise ValueError(
            f"{track}: no such track, neither prepared nor in {found.searched} registered models; "
            "`phalar lineage --json` lists them"
        )
    done = Done(track, new=track not in known, unknown=found.unknown)
    if done.new:
        today = datetime.now(UTC).date().isoformat()
        withdrawn.add(project, track, Withdrawal(reason, today))
    song = prepared.get(name)
    done.siblings = sorted(t for t, s in prepared.items() if s == song and t != name)
    versions = [place for place in found.places if place.run is not None]
    if versions:
        with registry.opened(registry.find(track)) as client:
            for place in versions:
                model, _, version = place.name.rpartition("/")
                for seen in place.sightings:
                    learned = seen.split in LEARNED
                    verdict = "must be trained again" if learned else "must be evaluated again"
                    done.models.append(Effect(place.name, seen.split, seen.pairs, verdict))
                    mark = f"{seen.split}: {reason}"
                    client.set_model_version_tag(model, version, f"withdrawn.{track}", mark)
                    if learned:
                        client.set_model_version_tag(model, version, champion.RETRAIN, "true")
    return done


def _songs(source: str, paths: Paths) -> Iterator[tuple[str, str]]:
    """Give name and song of each prepared track of a source."""
    for path in sorted(paths.prepare(source).glob("*.parquet")):
        table = pq.read_table(path, columns=["track", "song"])
        yield from zip(table["track"].to_pylist(), table["song"].to_pylist(), strict=True)
