"""Stage `register`: a version of the model in MLflow's registry, with its lineage and its card."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalar import registry, runlog
from phalar.card import card, data_card
from phalar.lineage import collect
from phalar.lineage.record import FILE, FORMAT, TRACKS, Record
from phalar.model import load_model
from phalar.params import Params, Paths
from phalar.registry import champion, versions

logger = logging.getLogger(__name__)

CARD, DATA_CARD = "card.md", "data.md"
GATE_PROTOCOL = "paper"


@dataclass(frozen=True, slots=True)
class Summary:
    """The version of a model in the registry."""

    name: str
    version: str
    run_id: str
    new: bool
    """False where this model already had a version."""
    champion: str | None
    """The version that users of `@champion` get; None while there is none."""

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def run(params: Params, paths: Paths) -> Summary:
    """Pass the gate, enter the model as challenger, write its lineage and its cards.

    The same model gets no second version: its tags, lineage and card are brought up to date. Where
    there is no champion to compare with, it becomes champion, if nothing stands against it.

    Raises
    ------
    ValueError
        The gate is not passed, records are missing or contradict each other.
    ConnectionError
        The registry refuses or does not answer.
    """
    load_model(paths.train)
    metrics = _read(paths.evaluate / "metrics.json", "evaluate")
    check_gate(metrics, params.register_.gate_times_chance)
    facts = _read(paths.train / "model.json", "train")
    trained = _read(paths.train / "run.json", "train")
    _check_data(paths, trained)
    record = collect.collect(params, paths)
    settings = params.register_
    with registry.opened(runlog.tracking_uri(params.tracking, paths.root.parent)) as client:
        run_id = versions.training_run(client, params, paths, trained)
        known = versions.known_version(client, settings.name, facts["sha256"], run_id)
        version = known or versions.add_version(client, settings.name, paths, facts, run_id)
        name = {"name": settings.name, "version": version}
        record = {
            "format": FORMAT,
            "model": name | {"sha256": facts["sha256"], "parameters": facts["parameters"]},
            "run": {
                "id": run_id,
                "experiment": trained["experiment"],
                "data_sha256": trained["data_sha256"],
            },
            "git": {"commit": trained["git_commit"], "dirty": trained["git_dirty"]},
            "params": params.model_dump(mode="json", by_alias=True),
            **record,
        }
        paths.register.mkdir(parents=True, exist_ok=True)
        collect.write_manifest(paths.register / TRACKS, collect.manifest(record, paths))
        record["manifest"] = {"file": TRACKS, "sha256": runlog.file_sha256(paths.register / TRACKS)}
        _write(paths.register, record, card(record, metrics, facts))
        _log(client, run_id, metrics, paths, version)
        tags = _tags(record, metrics)
        tags[registry.LINEAGE_SHA256] = runlog.file_sha256(paths.register / FILE)
        for key, value in tags.items():
            client.set_model_version_tag(settings.name, version, key, value)
        description = (paths.register / CARD).read_text()
        client.update_model_version(settings.name, version, description)
        # Last: who follows an alias finds a version that is complete.
        champion.challenge(client, settings.name, version)
        holder = _crown_the_first(client, settings.name, version)
    summary = Summary(settings.name, version, run_id, new=known is None, champion=holder)
    what = "new version" if summary.new else "version there already"
    logger.info("%s/%s is registered (%s)", summary.name, summary.version, what)
    return summary


def _check_data(paths: Paths, trained: Record) -> None:
    """Refuse weights that were trained on other pairs than those that the lineage would name."""
    wanted, found = trained["data_sha256"], runlog.data_digest(paths.render)
    if wanted != found:
        raise ValueError(
            f"{paths.train}: the model was trained on pairs with digest {wanted[:12]}, those in "
            f"{paths.render} have {found[:12]}; train again, or bring back its pairs (dvc checkout)"
        )


def _crown_the_first(client: Any, name: str, version: str) -> str | None:
    """Make a version champion where there is none; say who is champion, and why not this one."""
    holder = champion.holder(client, name, champion.CHAMPION)
    if holder is None:
        against = champion.obstacles(client.get_model_version(name, version))
        if against:
            logger.warning("%s has no champion: version %s: %s", name, version, "; ".join(against))
            return None
        champion.promote(client, name, version, instead_of=None)
        logger.info("%s/%s is the first champion", name, version)
        return version
    if holder != version:
        logger.info(
            "%s/%s is the challenger of the champion, version %s; `phalar promote` compares them",
            name,
            version,
            holder,
        )
    return holder


def check_gate(metrics: Record, times_chance: float) -> None:
    """Refuse a model that is not surely better than guessing, on any source.

    The lower end of the 95 % interval must reach `times_chance` times chance, protocol `paper` at
    its largest K.

    Raises
    ------
    ValueError
        With source, figures and rule.
    """
    for source, protocols in metrics["retrieval"].items():
        k, found = list(protocols[GATE_PROTOCOL].items())[-1]
        needed = times_chance * metrics["baselines"]["chance"][source][GATE_PROTOCOL][k]["top1"]
        if found["low"] < needed:
            raise ValueError(
                f"register: gate: {source}, {GATE_PROTOCOL}, K = {k}: the 95 % interval of the "
                f"accuracy ({100 * found['top1']:.2f} %) begins at {100 * found['low']:.2f} %, "
                f"must begin at {100 * needed:.2f} % or above, register.gate_times_chance x "
                "chance; train longer, or on more songs"
            )


def _tags(record: Record, metrics: Record) -> dict[str, str]:
    """What a version can be searched by in the registry."""
    return {
        registry.FINGERPRINT: record["model"]["sha256"],
        "git.commit": record["git"]["commit"],
        "git.dirty": str(record["git"]["dirty"]).lower(),
        "dvc.lock.sha256": str(record["dvc"]["lock_sha256"]),
        **{f"dvc.out.{out['path']}": out["md5"] for out in record["dvc"]["outs"]},
        **{f"licence.{source['source']}": source["licence"] for source in record["sources"]},
        **{name: f"{value:g}" for name, value in _flat(metrics["retrieval"]) if "top1" in name},
    }


def _flat(metrics: Record) -> Iterator[tuple[str, float]]:
    """Name each figure by its path, such as `test/bands/paper/64/top1`."""
    for name, value in runlog.flatten(metrics).items():
        yield "test/" + name.replace(".", "/"), float(value)


def _log(client: Any, run_id: str, metrics: Record, paths: Paths, version: str) -> None:
    """Put figures, report, card and all that lineage needs into the run of the training."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    probed: Record = {name: metrics[name] for name in ("beats", "chords") if name in metrics}
    figures = [
        Metric(name, value, now_ms, 0)
        for name, value in (*_flat(metrics["retrieval"]), *_flat(probed))
    ]
    client.log_batch(run_id, metrics=figures)
    folder = registry.folder_of(version)
    for path in (paths.register / name for name in (FILE, TRACKS, CARD, DATA_CARD)):
        client.log_artifact(run_id, str(path), folder)
    # With the lock file of its time, DVC brings a version's data back.
    evaluated = [paths.evaluate / name for name in ("report.html", "ranks.parquet")]
    for path in (*evaluated, paths.root.parent / "dvc.lock"):
        if path.is_file():
            client.log_artifact(run_id, str(path), folder)


def _read(path: Path, stage: str) -> Record:
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the {stage} stage")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run the {stage} stage again") from None


def _write(folder: Path, record: Record, text: str) -> None:
    """Write lineage and cards aside, then put them into place."""
    contents = {
        FILE: json.dumps(record, indent=1) + "\n",
        CARD: text,
        DATA_CARD: data_card(record),
    }
    for name, content in contents.items():
        aside = folder / f"{name}.part"
        aside.write_text(content, encoding="utf-8")
        aside.replace(folder / name)
