"""The sections of params.yaml that judge the model and keep it: evaluate, register, tracking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from phalar.params.types import Positive, PositiveFloat, Seed, Strict


class EvaluateBeats(Strict):
    """Zero-shot beat tracking of whole pieces."""

    songs: Positive
    """Held-out songs of each source."""
    seconds: PositiveFloat
    """Heard of each, from its start; a second is 50 windows."""
    gtzan: str | None
    """Folder with GTZAN and its `*.beats`, or null; a relative path starts at this file."""


class EvaluateChords(Strict):
    """The linear chord probe."""

    seconds: PositiveFloat
    """Heard of each held-out recording, from its start."""
    window_s: Annotated[float, Field(ge=0.5)]
    """What an embedding is of."""
    hop_s: Annotated[float, Field(ge=0.02)]
    """From window to window; the paper's is 0.02."""
    epochs: Positive
    """How often the probe sees each window; the paper's is 10."""
    guitarset: str | None
    """Folder with GuitarSet's annotations and microphone recordings, or null, likewise."""


class Evaluate(Strict):
    """The evaluate stage."""

    seed: Seed
    clip_s: PositiveFloat
    """How much of each test pair the model hears."""
    bootstrap: Positive
    """Resamples of the songs behind each 95 % interval."""
    sensitivity_pairs: Annotated[int, Field(ge=0)]
    """Pairs of each source whose stems are shifted, detuned and so on; 0 for none."""
    beats: EvaluateBeats | None
    """Null for none."""
    chords: EvaluateChords | None
    """Null for none."""


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
