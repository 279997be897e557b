"""Stage `register`: a version of the model in MLflow's registry, with its lineage and its card."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from phalar import audio, lineage, runlog
from phalar.card import card
from phalar.lineage import Record
from phalar.model import load_model
from phalar.params import Params, Paths

logger = logging.getLogger(__name__)

CARD = "card.md"
GATE_PROTOCOL = "paper"
FINGERPRINT = "model.sha256"
"""Tag of a version: the weights it was made of."""

LOCAL = "sqlite:///mlflow.db"
"""Where MLflow looks where it is not told; see `fetch`."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The version of a model in the registry."""

    name: str
    version: str
    alias: str
    run_id: str
    new: bool
    """False where this model already had a version."""

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def run(params: Params, paths: Paths) -> Summary:
    """Pass the gate, enter the model in the registry, write lineage.json and card.md.

    The same model gets no second version: its alias, tags, lineage and card are brought up to date.

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
    record = lineage.collect(params, paths)
    settings = params.register_
    with _registry(runlog.tracking_uri(params.tracking, paths.root.parent)) as client:
        run_id = _training_run(client, params, paths, trained)
        known = _known_version(client, settings.name, facts["sha256"], run_id)
        version = known or _add_version(client, settings.name, paths, facts, run_id)
        name = {"name": settings.name, "version": version, "alias": settings.alias}
        record = {
            "format": lineage.FORMAT,
            "model": name | {"sha256": facts["sha256"], "parameters": facts["parameters"]},
            "run": {"id": run_id, "experiment": trained["experiment"]},
            "git": {"commit": trained["git_commit"], "dirty": trained["git_dirty"]},
            "params": params.model_dump(mode="json", by_alias=True),
            **record,
        }
        _write(paths.register, record, card(record, metrics, facts))
        _log(client, run_id, metrics, paths, version)
        for key, value in _tags(record, metrics).items():
            client.set_model_version_tag(settings.name, version, key, value)
        description = (paths.register / CARD).read_text()
        client.update_model_version(settings.name, version, description)
        # Last: who follows the alias finds a version that is complete.
        client.set_registered_model_alias(settings.name, settings.alias, version)
    summary = Summary(settings.name, version, settings.alias, run_id, new=known is None)
    what = "new version" if summary.new else "version there already"
    logger.info("%s@%s is version %s (%s)", summary.name, summary.alias, summary.version, what)
    return summary


def _check_data(paths: Paths, trained: Record) -> None:
    """Refuse weights that were trained on other pairs than those that the lineage would name."""
    wanted, found = trained["data_sha256"], runlog.data_digest(paths.render)
    if wanted != found:
        raise ValueError(
            f"{paths.train}: the model was trained on pairs with digest {wanted[:12]}, those in "
            f"{paths.render} have {found[:12]}; train again, or bring back its pairs (dvc checkout)"
        )


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


def fetch(name: str) -> Path:
    """Find the files of a registered model, fetching them where they are elsewhere.

    Parameters
    ----------
    name : str
        `phalar@candidate`, `phalar/3` or `phalar` (the newest version), with `models:/` or not.

    Raises
    ------
    FileNotFoundError
        There is no registry here.
    ConnectionError
        The registry does not answer or has no such model.
    """
    with _registry(_found_registry(name)):
        import mlflow

        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=_model_uri(name)))
    return next(folder.rglob("model.safetensors")).parent


def fetch_lineage(name: str) -> str:
    """Read the lineage.json of a registered model; names and errors are those of `fetch`."""
    with _registry(_found_registry(name)) as client:
        import mlflow

        version = _find_version(client, _model_uri(name).removeprefix("models:/"))
        uri = f"runs:/{version.run_id}/{_folder(version.version)}/{lineage.FILE}"
        return str(mlflow.artifacts.load_text(uri))


def _find_version(client: Any, name: str) -> Any:
    """Find what `phalar@alias`, `phalar/3` or `phalar/latest` means."""
    if "@" in name:
        return client.get_model_version_by_alias(*name.split("@"))
    model, _, version = name.partition("/")
    if version == "latest":
        known = client.search_model_versions(f"name = '{model}'")
        version = str(max((int(each.version) for each in known), default=0))
    return client.get_model_version(model, version)


def _found_registry(name: str) -> str:
    """Where the registry is; the default one must be there, or MLflow would make an empty one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", LOCAL)
    if uri == LOCAL and not Path(LOCAL.removeprefix(runlog.SQLITE)).is_file():
        raise FileNotFoundError(
            f"{name}: no such folder, and no registry mlflow.db here; give a model's folder, or "
            "set MLFLOW_TRACKING_URI"
        )
    return uri


def _model_uri(name: str) -> str:
    words = name.removeprefix("models:/")
    return f"models:/{words}" if "@" in words or "/" in words else f"models:/{words}/latest"


@contextmanager
def _registry(uri: str) -> Iterator[Any]:
    """Open the registry; what MLflow raises becomes one line."""
    # Before the import, which reads them.
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for name, value in (runlog.ENVIRONMENT | quiet).items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ImportError("a registry needs MLflow: pip install 'phalar[pipeline]'") from None

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        runlog.open_store(uri)
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(uri)
    except MlflowException as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise ConnectionError(f"MLflow ({uri}): {first}; see MLFLOW_TRACKING_URI") from error
    finally:
        # MLflow writes the environment too: back to what it was, or the next call of this process
        # would go where this one went.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _training_run(client: Any, params: Params, paths: Paths, trained: Record) -> str:
    """The run of the training; made anew from its records where this registry does not know it."""
    from mlflow.exceptions import MlflowException

    run_id: str | None = trained["run_id"]
    if run_id is not None:
        try:
            client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            return run_id
    tags = {
        "git.commit": trained["git_commit"],
        "git.dirty": str(trained["git_dirty"]).lower(),
        "params.sha256": trained["params_sha256"],
        "data.sha256": trained["data_sha256"],
    }
    facts = runlog.Facts("train", params, tags, paths.render, trained["data_sha256"])
    project = paths.root.parent
    recorder = runlog.Recorder(params.tracking, project=project, facts=facts)
    recorder.close("FINISHED")
    if recorder.run_id is None:
        raise ConnectionError(f"MLflow ({recorder.uri}) takes no run; see MLFLOW_TRACKING_URI")
    logger.warning("MLflow does not know the training's run; %s stands for it", recorder.run_id)
    return recorder.run_id


def _known_version(client: Any, name: str, sha256: str, run_id: str) -> str | None:
    """The newest version that was made of these weights by this run."""
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    same = [int(v.version) for v in versions if v.tags.get(FINGERPRINT) == sha256]
    return str(max(same)) if same else None


def _add_version(client: Any, name: str, paths: Paths, facts: Record, run_id: str) -> str:
    """Log the model to its run, with the code that it runs with, and give it a version."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    # By hand: what MLflow infers from an example fixes the length of the sound.
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), (-1, 2, 512), "embedding"),
                TensorSpec(np.dtype(np.float32), (-1, -1), "score"),
            ]
        ),
        params=ParamSchema([ParamSpec("sample_rate", "long", audio.SAMPLE_RATE_HZ)]),
    )
    noise = np.random.default_rng(0).normal(0, 0.1, (2, audio.SAMPLE_RATE_HZ)).astype(np.float32)
    with _folder_of_model(paths) as folder, mlflow.start_run(run_id=run_id):
        # A loader module rather than an object or a script: nothing is pickled, nothing runs twice.
        logged = mlflow.pyfunc.log_model(
            name=name,
            loader_module="phalar.infer",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parent)],
            signature=signature,
            input_example=noise,
            pip_requirements=_requirements(),
            metadata={"sha256": facts["sha256"]},
        )
    with suppress(MlflowException):  # it is there already; if not, the next line says why
        client.create_registered_model(name)
    made = client.create_model_version(
        name,
        source=logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags={FINGERPRINT: facts["sha256"]},
    )
    return str(made.version)


@contextmanager
def _folder_of_model(paths: Paths) -> Iterator[Path]:
    """Give a folder of the model's two files alone: training leaves others beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.safetensors", "model.json"):
            shutil.copy(paths.train / name, folder)
        yield Path(folder)


def _requirements() -> list[str]:
    """What using a model needs, at the versions that are installed here."""
    from packaging.requirements import Requirement

    needed = (Requirement(text) for text in metadata.requires("phalar") or ())
    names = [each.name for each in needed if each.marker is None]
    return [f"{name}=={metadata.version(name)}" for name in names]


def _tags(record: Record, metrics: Record) -> dict[str, str]:
    """What a version can be searched by in the registry."""
    return {
        FINGERPRINT: record["model"]["sha256"],
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
    """Put figures, report, lineage and card into the run of the training."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    figures = [Metric(name, value, now_ms, 0) for name, value in _flat(metrics["retrieval"])]
    client.log_batch(run_id, metrics=figures)
    folder = _folder(version)
    for path in (paths.register / lineage.FILE, paths.register / CARD):
        client.log_artifact(run_id, str(path), folder)
    if (report := paths.evaluate / "report.html").is_file():
        client.log_artifact(run_id, str(report), folder)


def _folder(version: str) -> str:
    """Where the run keeps the documents of a version."""
    return f"version-{version}"


def _read(path: Path, stage: str) -> Record:
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the {stage} stage")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run the {stage} stage again") from None


def _write(folder: Path, record: Record, text: str) -> None:
    """Write lineage and card aside, then put them into place."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {lineage.FILE: json.dumps(record, indent=1) + "\n", CARD: text}
    for name, content in contents.items():
        aside = folder / f"{name}.part"
        aside.write_text(content, encoding="utf-8")
        aside.replace(folder / name)
