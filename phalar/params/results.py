"""The sections of params.yaml that judge the model and keep it: evaluate, register, tracking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from phalar.params.types import Positive, PositiveFloat, Seed, Strict


class Evaluate(Strict):
    """The evaluate stage."""

    seed: Seed
    clip_s: PositiveFloat
    """How much of each test pair the model hears."""
    bootstrap: Positive
    """Resamples of the songs behind each 95 % interval."""
    sensitivity_pairs: Annotated[int, Field(ge=0)]
    """Pairs of each source whose stems are shifted, detuned and so on; 0 for none."""


class Promote(Strict):
    """When a challenger becomes champion; both are compared at the largest K of each source."""

    protocol: Literal["paper", "songs", "song"]
    gain: Annotated[float, Field(ge=0, le=1)]
    """On one source at least, the 95 % interval of the difference must begin above this."""
    loss: Annotated[float, Field(ge=0, le=1)]
    """And on none may the accuracy fall by more than this."""


class Register(Strict):
    """The register stage."""

    name: str
    """Registered model in MLflow."""
    gate_times_chance: Annotated[float, Field(ge=0)]
    """A model is refused unless the lower end of its 95 % interval reaches so many times chance."""
    promote: Promote


class Tracking(Strict):
    """Where MLflow records runs; the environment variable MLFLOW_TRACKING_URI goes first."""

    uri: str
    experiment: str
