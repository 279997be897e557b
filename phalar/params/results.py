"""The sections of params.yaml that judge the model and keep it: evaluate, register, tracking."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from phalar.params.types import Positive, PositiveFloat, Seed, Strict


class Evaluate(Strict):
    """The evaluate stage."""

    seed: Seed
    clip_s: PositiveFloat
    """How much of each test pair the model hears."""
    bootstrap: Positive
    """Resamples of the songs behind each 95 % interval."""


class Register(Strict):
    """The register stage."""

    name: str
    """Registered model in MLflow."""
    alias: str
    """Alias that moves to each new version."""
    gate_times_chance: Annotated[float, Field(ge=0)]
    """A model is refused unless the lower end of its 95 % interval reaches so many times chance."""


class Tracking(Strict):
    """Where MLflow records runs; the environment variable MLFLOW_TRACKING_URI goes first."""

    uri: str
    experiment: str
