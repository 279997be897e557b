"""What the registry keeps of a model: the run behind it, a version, and the code it runs with."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from phalar import audio, calibration, dvclock, runlog
from phalar.params import Params, Paths
from phalar.registry import FINGERPRINT, versions_of

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def training_run(client: Any, params: Params, paths: Paths, trained: Record) -> str:
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
    data, told = dvclock.data_sets(paths.root.parent, paths, trained["data_sha256"])
    tags = {
        "git.commit": trained["git_commit"],
        "git.dirty": str(trained["git_dirty"]).lower(),
        "params.sha256": trained["params_sha256"],
        "data.sha256": trained["data_sha256"],
        "data.dvc": told,
    }
    facts = runlog.Facts("train", params, tags, data)
    project = paths.root.parent
    recorder = runlog.Recorder(params.tracking, project=project, facts=facts)
    recorder.close("FINISHED")
    if recorder.run_id is None:
        raise ConnectionError(f"MLflow ({recorder.uri}) takes no run; see MLFLOW_TRACKING_URI")
    logger.warning("MLflow does not know the training's run; %s stands for it", recorder.run_id)
    return recorder.run_id


def known_version(client: Any, name: str, sha256: str, run_id: str) -> str | None:
    """The newest version that was made of these weights by this run."""
    versions = versions_of(client, f"name = '{name}' and run_id = '{run_id}'")
    same = [int(v.version) for v in versions if v.tags.get(FINGERPRINT) == sha256]
    return str(max(same)) if same else None


def add_version(client: Any, name: str, paths: Paths, facts: Record, run_id: str) -> str:
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
        params=ParamSchema(
            [
                ParamSpec("sample_rate", "long", audio.SAMPLE_RATE_HZ),
                ParamSpec("files", "string", [], shape=(-1,)),
            ]
        ),
    )
    noise = np.random.default_rng(0).normal(0, 0.1, (2, audio.SAMPLE_RATE_HZ)).astype(np.float32)
    with _folder_of_model(paths, facts["sha256"]) as folder, mlflow.start_run(run_id=run_id):
        # A loader module rather than an object or a script: nothing is pickled, nothing runs twice.
        logged = mlflow.pyfunc.log_model(
            name=name,
            loader_module="phalar.infer",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[1])],
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
def _folder_of_model(paths: Paths, sha256: str) -> Iterator[Path]:
    """Give a folder of the model's files alone: training leaves others beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.safetensors", "model.json"):
            shutil.copy(paths.train / name, folder)
        if found := calibration.find(paths.train, sha256):
            calibration.write(found, Path(folder))
        yield Path(folder)


def _requirements() -> list[str]:
    """What using a model needs, at the versions that are installed here."""
    from packaging.requirements import Requirement

    needed = (Requirement(text) for text in metadata.requires("phalar") or ())
    names = [each.name for each in needed if each.marker is None]
    return [f"{name}=={metadata.version(name)}" for name in names]
