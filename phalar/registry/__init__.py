"""MLflow's registry, opened for one call: versions found by name, their files and their lineage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phalar import runlog

LINEAGE = "lineage.json"
FINGERPRINT = "model.sha256"
"""Tag of a version: the weights it was made of."""
LINEAGE_SHA256 = "lineage.sha256"
"""Tag of a version: what its lineage.json must be."""

LOCAL = "sqlite:///mlflow.db"
"""Where MLflow looks where it is not told; see `fetch`."""


def fetch(name: str) -> Path:
    """Find the files of a registered model, fetching them where they are elsewhere.

    Parameters
    ----------
    name : str
        `phalar@champion`, `phalar/3` or `phalar` (the newest version), with `models:/` or not.

    Raises
    ------
    FileNotFoundError
        There is no registry here.
    ConnectionError
        The registry does not answer or has no such model.
    """
    with opened(find(name)):
        return fetch_files(name)


def fetch_files(name: str) -> Path:
    """Find the folder of a registered model's two files in a registry that is open."""
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=_model_uri(name)))
    path = next(folder.rglob("model.safetensors"), None)
    if path is None:
        raise ValueError(f"{name}: its artifacts hold no model.safetensors; register it again")
    return path.parent


def fetch_lineage(name: str) -> str:
    """Read the lineage.json of a registered model; names and errors are those of `fetch`."""
    with opened(find(name)) as client:
        return load_document(find_version(client, name), LINEAGE)


def fetch_lineage_of_run(run_id: str) -> str:
    """Read the lineage.json of the newest version that came from an MLflow run."""
    with opened(find(run_id)) as client:
        client.get_run(run_id)
        versions = versions_of(client, f"run_id = '{run_id}'")
        if not versions:
            raise ValueError(f"run {run_id}: no model of it is registered; run the register stage")
        return load_document(versions[-1], LINEAGE)


def fetch_lineage_of_weights(sha256: str, path: str) -> str:
    """Read the lineage.json of the newest version that was made of these weights."""
    with opened(find(path)) as client:
        versions = versions_of(client, f"tags.`{FINGERPRINT}` = '{sha256}'")
        if not versions:
            raise ValueError(
                f"{path}: no registered model has these weights (SHA-256 {sha256[:12]}); run the "
                "register stage, or name a registered model"
            )
        return load_document(versions[-1], LINEAGE)


def find_version(client: Any, name: str) -> Any:
    """Find what `phalar@alias`, `phalar/3`, or `phalar` for the newest, means."""
    words = _model_uri(name).removeprefix("models:/")
    if "@" in words:
        return client.get_model_version_by_alias(*words.split("@"))
    model, _, version = words.partition("/")
    if version == "latest":
        known = versions_of(client, f"name = '{model}'")
        version = known[-1].version if known else "0"
    return client.get_model_version(model, version)


def versions_of(client: Any, query: str = "") -> list[Any]:
    """List all versions that a query in MLflow's words finds, the oldest first."""
    found: list[Any] = []
    page = None
    while page is None or page.token:
        page = client.search_model_versions(query or None, page_token=page and page.token)
        found += page
    return sorted(found, key=lambda version: (version.name, int(version.version)))


def load_document(version: Any, name: str) -> str:
    """Read a text that lies with a version, such as its lineage.json."""
    import mlflow

    uri = f"runs:/{version.run_id}/{folder_of(version.version)}/{name}"
    return str(mlflow.artifacts.load_text(uri))


def fetch_document(version: Any, name: str) -> Path:
    """Find a file that lies with a version, fetching it where it is elsewhere."""
    import mlflow

    place = f"{folder_of(version.version)}/{name}"
    return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=place))


def runs_of(client: Any, query: str = "") -> Iterator[Any]:
    """List the runs of all experiments that a query in MLflow's words finds."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    page = None
    while page is None or page.token:
        page = client.search_runs(experiments, query, page_token=page and page.token)
        yield from page


def find(name: str) -> str:
    """Where the registry is; the default one must be there, or MLflow would make an empty one.

    Raises
    ------
    FileNotFoundError
        It is not; `name` is what was looked for.
    """
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
def opened(uri: str) -> Iterator[Any]:
    """Open the registry; what MLflow raises becomes one line."""
    # Before the import, which reads them.
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for name, value in (runlog.ENVIRONMENT | quiet).items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
        from requests.exceptions import ConnectionError as RequestsConnectionError
        from requests.exceptions import Timeout
    except ImportError:
        raise ImportError("a registry needs MLflow: pip install 'phalar[pipeline]'") from None

    for noisy, level in {"mlflow": "WARNING", "alembic": "WARNING", "urllib3": "ERROR"}.items():
        logging.getLogger(noisy).setLevel(level)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        runlog.open_store(uri)
        mlflow.set_tracking_uri(uri)
        yield mlflow.MlflowClient(uri)
    except MlflowException as error:
        first = str(error).partition("\n")[0].rstrip(".")
        # Requests puts all that it tried into one sentence.
        if isinstance(error.__context__, RequestsConnectionError | Timeout):
            first = "no server answers there"
        raise ConnectionError(f"MLflow ({uri}): {first}; see MLFLOW_TRACKING_URI") from error
    finally:
        # MLflow writes the environment too: back to what it was, or the next call of this process
        # would go where this one went.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def folder_of(version: str) -> str:
    """Where the run keeps the documents of a version."""
    return f"version-{version}"
