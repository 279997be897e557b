"""The gate: the challenger becomes champion where it is surely better on the same frozen trials."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from phalar import registry, runlog
from phalar.evaluate import ranks, stage
from phalar.evaluate.compare import Comparison, compare
from phalar.model import load_model
from phalar.params import Params, Paths, Promote
from phalar.registry import champion

logger = logging.getLogger(__name__)

FILE = "gate.json"
PROMOTED, CHAMPION, WHY = "gate.promoted", "gate.champion", "gate.why"
"""Tags of a version: how the gate last decided, against whom ("" for nobody), and why."""

TRIES = 3
"""For a champion that changes while the two are compared."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided about one version, and by which figures."""

    name: str
    challenger: str
    champion: str | None
    """None where there was none to compare with."""
    promoted: bool
    why: str
    figures: list[Comparison]
    """Challenger minus champion, for each source at the largest K."""


def run(params: Params, paths: Paths) -> Decision | None:
    """Decide about the challenger, record the decision, and promote where it is to be.

    Returns
    -------
    Decision or None
        None where there is no challenger, or the champion still bears that alias too: a promotion
        that was killed before its last step, which is ended.

    Raises
    ------
    ValueError
        There is nothing to compare by: run the render and evaluate stages.
    ConnectionError
        The registry does not answer.
    """
    name = params.register_.name
    with registry.opened(runlog.tracking_uri(params.tracking, paths.root.parent)) as client:
        for tried in range(1, TRIES + 1):
            challenger = champion.holder(client, name, champion.CHALLENGER)
            if challenger is None:
                return None
            if challenger == champion.holder(client, name, champion.CHAMPION):
                champion.finish(client, name)
                return None
            decision = _decide(client, params, paths, challenger)
            _record(client, decision)
            if decision.promoted:
                try:
                    champion.promote(client, name, challenger, instead_of=decision.champion)
                except ValueError:
                    if tried == TRIES:
                        raise
                    continue  # another champion: what was found of the last one says nothing
            break
    logger.info("%s", tell(decision))
    return decision


def is_due(client: Any, name: str) -> bool:
    """Tell whether a challenger waits for a decision, as after a crash."""
    challenger = champion.holder(client, name, champion.CHALLENGER)
    if challenger is None:
        return False
    tags = client.get_model_version(name, challenger).tags
    against = champion.holder(client, name, champion.CHAMPION) or ""
    # A promotion that was decided but not carried out is due too: the alias would be gone.
    return bool(tags.get(CHAMPION) != against or tags.get(PROMOTED) == "true")


def tell(decision: Decision) -> str:
    """Say a decision in one line."""
    outcome = "is champion now" if decision.promoted else "is not promoted"
    return f"{decision.name}/{decision.challenger} {outcome}: {decision.why}"


def _decide(client: Any, params: Params, paths: Paths, challenger: str) -> Decision:
    name = params.register_.name
    holder = champion.holder(client, name, champion.CHAMPION)
    version = client.get_model_version(name, challenger)

    def decided(promoted: bool, why: str, figures: Sequence[Comparison] = ()) -> Decision:
        return Decision(name, challenger, holder, promoted, why, list(figures))

    if against := champion.obstacles(version):
        return decided(False, "; ".join(against))
    if holder is None:
        return decided(True, "there was no champion")
    other = client.get_model_version(name, holder)
    both = [_ranks(each, params, paths) for each in (version, other)]
    settings = params.evaluate
    found = compare(*both, resamples=settings.bootstrap, seed=settings.seed)
    figures = largest(found, params.register_.promote.protocol)
    if other.tags.get(champion.RETRAIN):
        return decided(True, f"champion {holder} was trained on a withdrawn track", figures)
    promoted, why = judge(figures, params.register_.promote)
    return decided(promoted, why, figures)


def largest(found: Sequence[Comparison], protocol: str) -> list[Comparison]:
    """Keep of each source the comparison at the largest K of one protocol."""
    kept: dict[str, Comparison] = {}
    for each in sorted(found, key=lambda c: (c.source, c.candidates)):
        if each.protocol == protocol:
            kept[each.source] = each
    return list(kept.values())


def judge(figures: Sequence[Comparison], rule: Promote) -> tuple[bool, str]:
    """Apply the rule of params.yaml: surely better on a source, and on none worse than allowed.

    Parameters
    ----------
    figures : sequence of Comparison
        Challenger minus champion, one a source.
    rule : params.Promote
        `gain`: the lower end of one source's interval must lie above it. `loss`: no source's
        accuracy may fall by more.
    """
    if worse := [each for each in figures if each.difference < -rule.loss]:
        return False, f"worse by more than {100 * rule.loss:g} points: {_words(worse)}"
    if better := [each for each in figures if each.low > rule.gain]:
        return True, f"surely better: {_words(better)}"
    return False, f"nowhere surely better by more than {100 * rule.gain:g}: {_words(figures)}"


def _words(figures: Sequence[Comparison]) -> str:
    return "; ".join(
        f"{c.source} {c.protocol} K = {c.candidates}: {100 * c.a:.1f} % after {100 * c.b:.1f} % "
        f"({100 * c.difference:+.1f}, 95 %: {100 * c.low:+.1f} to {100 * c.high:+.1f})"
        for c in figures
    )


def _ranks(version: Any, params: Params, paths: Paths) -> pa.Table:
    """Give a version's ranks on the trials that lie there: kept ones, or its answers now."""
    from mlflow.exceptions import MlflowException

    asked = ranks.question(paths.render, stage.SPLIT, params.evaluate.clip_s)
    try:
        kept = ranks.read(registry.fetch_document(version, ranks.RANKS))
    except (MlflowException, OSError, ValueError):
        logger.info("%s/%s: its ranks are not kept", version.name, version.version)
    else:
        if kept.schema.metadata[ranks.QUESTION].decode() == asked:
            return kept
    logger.info("%s/%s answers the trials of today", version.name, version.version)
    folder = registry.fetch_files(f"{version.name}/{version.version}")
    return stage.answer(load_model(folder), params, paths)


def _record(client: Any, decision: Decision) -> None:
    """Write a decision to the version: as tags, and whole beside its lineage."""
    version = client.get_model_version(decision.name, decision.challenger)
    tags = {
        PROMOTED: str(decision.promoted).lower(),
        CHAMPION: decision.champion or "",
        WHY: decision.why,
    }
    for key, value in tags.items():
        client.set_model_version_tag(decision.name, decision.challenger, key, value)
    folder = registry.folder_of(decision.challenger)
    text = json.dumps(asdict(decision), indent=1) + "\n"
    client.log_text(version.run_id, text, f"{folder}/{FILE}")
