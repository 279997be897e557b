"""params.yaml as strict typed models, and every path under data/."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from phalar.params.data import (
    Download,
    DownloadBands,
    DownloadChorales,
    DownloadCocochorales,
    DownloadOwn,
    DownloadWhole,
    Fetch,
    Prepare,
    PrepareMoisesdb,
    PrepareRecorded,
    PrepareScores,
    Render,
    Splits,
)
from phalar.params.paths import Paths
from phalar.params.results import (
    Evaluate,
    EvaluateBeats,
    EvaluateChords,
    Promote,
    Register,
    Tracking,
)
from phalar.params.train import (
    Augment,
    Noise,
    Noises,
    Optimiser,
    Train,
    Validate,
)
from phalar.params.types import Strict

__all__ = [
    "Augment",
    "Download",
    "DownloadBands",
    "DownloadChorales",
    "DownloadCocochorales",
    "DownloadOwn",
    "DownloadWhole",
    "Evaluate",
    "EvaluateBeats",
    "EvaluateChords",
    "Fetch",
    "Noise",
    "Noises",
    "Optimiser",
    "Params",
    "Paths",
    "Prepare",
    "PrepareMoisesdb",
    "PrepareRecorded",
    "PrepareScores",
    "Promote",
    "Register",
    "Render",
    "Splits",
    "Strict",
    "Tracking",
    "Train",
    "Validate",
    "check",
    "digest",
    "load",
]


class Params(Strict):
    """The whole of params.yaml."""

    sources: Annotated[list[str], Field(min_length=1)]
    download: Download
    prepare: Prepare
    render: Render
    train: Train
    evaluate: Evaluate
    # Pydantic models inherit a method of the name `register`.
    register_: Annotated[Register, Field(alias="register")]
    tracking: Tracking

    _paths: Paths = PrivateAttr(default=Paths(Path("data")))

    @property
    def paths(self) -> Paths:
        """Where everything lies: `data/` beside the file that the parameters were read from."""
        return self._paths

    @model_validator(mode="after")
    def _sources_are_known(self) -> Params:
        known = [name for name in Download.model_fields if name != "fetch"]
        for name in self.sources:
            if name not in known:
                raise ValueError(f"sources: {name!r} is unknown; choose from {', '.join(known)}")
            for stage, section in (("download", self.download), ("prepare", self.prepare)):
                if getattr(section, name) is None:
                    raise ValueError(f"{stage}.{name} is missing, {name!r} is in sources; add it")
            if name not in self.render.weights:
                raise ValueError(f"render.weights: no weight for source {name!r}; add one")
        return self


def load(path: Path) -> Params:
    """Read and check a parameter file.

    Raises
    ------
    ValueError
        One line for each thing that is wrong: dotted name, value, rule.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; run in the project's folder or use --params"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    return check(raw, path)


def check(values: Any, path: Path) -> Params:
    """Check what was read from a parameter file; raises as `load` does."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(path, e) for e in error.errors())
        raise ValueError("\n".join(lines)) from None
    params._paths = Paths(path.parent / "data")
    return params


def _explain(path: Path, error: Any) -> str:
    """One line for one validation error: where, what it is, what it must be."""
    # The members of a union stand in the location as well, as if they were keys.
    members = ("bool", "int", "constrained-int")
    keys = [str(key) for key in error["loc"]]
    dotted = ".".join(key for key in keys if "[" not in key and key not in members)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{path}: {dotted} is missing; add it"
    if error["type"] == "extra_forbidden":
        return f"{path}: {dotted} is not a parameter; remove it or mend its spelling"
    if error["type"] == "value_error":
        return f"{path}: {dotted + ': ' if dotted else ''}{message}"
    return f"{path}: {dotted} = {error['input']!r}: {message}"


def digest(params: BaseModel) -> str:
    """SHA-256 of a section's values, whatever the layout of the file they came from."""
    return hashlib.sha256(params.model_dump_json().encode()).hexdigest()
