"""Verify the upper end of a chain in the registry: version, weights, documents, run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phalar import registry, runlog
from phalar.lineage.check import Check, right, unknown, wrong
from phalar.lineage.record import FILE, TRACKS, WEIGHTS, Record, parse


def checks(record: Record) -> list[Check]:
    """Check version, weights, lineage and run; without a registry none of them can be."""
    name = _name(record)
    try:
        with registry.opened(registry.find(name)) as client:
            return list(_checks(client, record))
    except (OSError, ImportError) as error:
        return [unknown("registry", f"{name}: {error}")]


def _name(record: Record) -> str:
    return f"{record['model']['name']}/{record['model']['version']}"


def _checks(client: Any, record: Record) -> Iterator[Check]:
    from mlflow.exceptions import MlflowException

    name, model = _name(record), record["model"]
    try:
        version = client.get_model_version(model["name"], model["version"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        yield wrong("model version", f"{name} is not in the registry {client.tracking_uri}")
    else:
        tagged = version.tags.get(registry.FINGERPRINT)
        if tagged == model["sha256"]:
            yield right("model version", f"{name}, SHA-256 {tagged[:12]}")
        else:
            yield wrong("model version", f"{name} is of the weights {tagged}, not of the record's")
        yield _weights(name, model["sha256"])
        yield _documents(version, record)
        yield from _kept(version, record)
    yield from _run(client, record)


def _weights(name: str, sha256: str) -> Check:
    """Compute the hash of the weights that the registry would hand out."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}"))
        path = next(folder.rglob(WEIGHTS), None)
    except (MlflowException, OSError) as error:
        return wrong("weights", f"the artifacts of {name} are gone: {_first_line(error)}")
    if path is None:
        return wrong("weights", f"the artifacts of {name} hold no {WEIGHTS}: it was deleted")
    found = runlog.file_sha256(path)
    if found != sha256:
        return wrong("weights", f"{WEIGHTS} of {name} has SHA-256 {found[:12]}: it was changed")
    return right("weights", f"{WEIGHTS} of {name} has SHA-256 {found[:12]}")


def _documents(version: Any, record: Record) -> Check:
    """Compare the registry's lineage.json with the hash in its tag, and with this record."""
    from mlflow.exceptions import MlflowException

    link, name = "lineage", f"{registry.folder_of(version.version)}/{FILE}"
    try:
        text = registry.load_document(version, FILE)
    except (MlflowException, OSError) as error:
        return wrong(link, f"{name} is gone from the run's artifacts: {_first_line(error)}")
    expected = version.tags.get(registry.LINEAGE_SHA256)
    if hashlib.sha256(text.encode()).hexdigest() != expected:
        return wrong(link, f"{name} of the run's artifacts was changed since it was registered")
    if parse(text, name) != record:
        return wrong(link, f"this record is not the {name} of the registry")
    return right(link, f"{name} has SHA-256 {expected[:12]}")


def _kept(version: Any, record: Record) -> Iterator[Check]:
    """Check what was kept with the lineage: the lock file of DVC, and the list of tracks."""
    from mlflow.exceptions import MlflowException

    known = {
        "dvc.lock": record["dvc"]["lock_sha256"],
        TRACKS: record.get("manifest", {}).get("sha256"),
    }
    for name, sha256 in known.items():
        link, place = f"{name}, kept", f"{registry.folder_of(version.version)}/{name}"
        if sha256 is None:
            yield unknown(link, f"the record has no SHA-256 of {place}")
            continue
        try:
            found = runlog.file_sha256(registry.fetch_document(version, name))
        except (MlflowException, OSError) as error:
            yield wrong(link, f"{place} is gone from the run's artifacts: {_first_line(error)}")
            continue
        if found == sha256:
            yield right(link, f"{place} has SHA-256 {found[:12]}")
        else:
            yield wrong(link, f"{place} has SHA-256 {found[:12]}: it was changed")


def _run(client: Any, record: Record) -> Iterator[Check]:
    """Look for the run, and compare what it says of code and data."""
    from mlflow.exceptions import MlflowException

    run_id = record["run"]["id"]
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        yield wrong("MLflow run", f"{run_id} is missing")
        return
    if run.info.lifecycle_stage != "active":
        yield wrong("MLflow run", f"{run_id} was deleted")
        return
    told = {
        "git.commit": record["git"]["commit"],
        "git.dirty": str(record["git"]["dirty"]).lower(),
        "data.sha256": record["run"]["data_sha256"],
    }
    other = [name for name, value in told.items() if run.data.tags.get(name) != value]
    if other:
        yield wrong("MLflow run", f"{run_id} says otherwise of {', '.join(other)}")
    else:
        yield right("MLflow run", f"{run_id} is there, of the same commit and data")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
