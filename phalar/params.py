"""params.yaml as strict typed models, and every path under data/."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Workers = Literal["auto"] | Positive
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """A section: unknown keys and values of another type are refused, and there are no defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DownloadChorales(Strict):
    """Where the Bach chorales come from."""

    package: Literal["music21"]
    version: str
    """Installed version that the scores are copied from."""


class DownloadBands(Strict):
    """Where the game music comes from."""

    wheel: Literal["vizdoom"]
    version: str
    sha256: str
    """Of the wheel, checked before anything is read from it."""


class Download(Strict):
    """The download stage, one entry a source."""

    chorales: DownloadChorales
    bands: DownloadBands


class Splits(Strict):
    """Shares of the songs, which a hash of each song's name shares out."""

    salt: int
    """Another number shares the songs out in another way."""
    train: Fraction
    valid: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sum_is_one(self) -> Splits:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"fractions {self.train:g} + {self.valid:g} + {self.test:g} = {total:g}, must be 1"
            )
        return self


class PrepareScores(Strict):
    """How the scores of an embedded source are played."""

    renditions: Positive
    """Performances of each piece, each with its own instruments, tempo and tuning."""
    max_s: PositiveFloat
    """Longer pieces are cut here."""


class Prepare(Strict):
    """The prepare stage."""

    seed: int
    workers: Workers
    max_bad_fraction: Fraction
    """More bad tracks than this share of those found is an error."""
    split: Splits
    chorales: PrepareScores
    bands: PrepareScores


class Counts(Strict):
    """A number for each split."""

    train: Positive
    valid: Positive
    test: Positive


class Seconds(Strict):
    """A length for each split, in seconds."""

    train: PositiveFloat
    valid: PositiveFloat
    test: PositiveFloat


class Render(Strict):
    """The render stage."""

    seed: int
    workers: Workers
    weights: dict[str, PositiveFloat]
    """Share of the training pairs that each source gives; relative, one entry a source."""
    pairs: Counts
    """Training pairs over all sources; valid and test pairs per source and way of drawing."""
    pair_s: Seconds
    pairs_per_shard: Positive
    container: Literal["wav", "flac"]
    audible_db: float
    """A stem is audible where its level is above this, in dB of full scale."""
    audible_fraction: Fraction
    """Both sides of a pair are audible for at least this share of its time."""
    trial_candidates: list[Positive]
    """K of the frozen trials."""


class Loss(Strict):
    """Contrastive loss over the similarity matrix of a batch."""

    direction: Literal["anchor", "both"]
    """`anchor`: anchors look for positives (the paper); `both`: the mean of both directions."""
    target_weight: Annotated[float, Field(gt=0, le=1)]
    """Probability that label smoothing leaves to the true pair."""


class Muon(Strict):
    """Muon, for weights with two or more dimensions outside the similarity."""

    learning_rate: PositiveFloat
    momentum: Fraction
    newton_schulz_steps: Positive
    weight_decay: float


class Adam(Strict):
    """Adam, for everything else."""

    learning_rate: PositiveFloat
    beta1: Fraction
    beta2: Fraction
    weight_decay: float


class Decay(Strict):
    """How the learning rates fall to zero at the end."""

    shape: Literal["linear", "cosine"]
    fraction: Fraction
    """Share of the steps over which they fall; 0 for none (the paper)."""


class Optimiser(Strict):
    """Optimisers and their schedule."""

    muon: Muon
    adam: Adam
    warmup_steps: Annotated[int, Field(ge=0)]
    decay: Decay
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the averaged weights that are validated and exported; 0 for none."""


class Noise(Strict):
    """One kind of noise."""

    probability: Fraction
    snr_db: Range


class Noises(Strict):
    """The kinds of noise, each drawn on its own for anchor and positive."""

    white: Noise
    pink: Noise
    brown: Noise
    band: Noise
    bursts: Noise


class Augment(Strict):
    """Augmentation of the waveforms on the device."""

    gain_db: Range
    """Shared by anchor and positive."""
    noises: Noises


class Nodes(Strict):
    """Several machines, each of which runs the same command; they meet by torchrun's rendezvous."""

    count: Positive
    endpoint: str
    """`host:port` on one of them."""
    id: str
    """Any name that the runs of one training share."""


class Validate(Strict):
    """Accuracy on frozen trials of the valid split, which decides which weights are kept."""

    every_steps: Positive
    """It is also measured after the last step."""
    pairs: Positive
    """At most so many of each source are heard: the first whole trials that they suffice for."""
    candidates: Positive
    """K of the trials; one of render.trial_candidates."""
    clip_s: PositiveFloat
    """How much of each pair the model hears, from its middle."""
    patience: Positive | None
    """Stop after so many validations without a better one; null: never."""


class Train(Strict):
    """The train stage."""

    seed: int
    variant: Literal["full", "gap", "magnitude", "cosine", "psd", "hermitian", "mel", "cocola"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    steps: Positive
    batch_pairs: Positive
    """Pairs of a global batch, over all processes."""
    batch_from: Literal["one_source", "all_sources"]
    """Where a batch's pairs come from; sources are told apart too easily to teach much."""
    crop_s: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Lengths of a batch's clips; each batch draws one of them."""
    devices: Literal["auto", "cpu"] | Positive
    """`auto`: one process a GPU, or one on the CPU; a number: so many processes on each node."""
    nodes: Nodes | None
    threads: Workers
    """Threads of each training process; `auto`: the cores shared evenly."""
    workers: Annotated[int, Field(ge=0)]
    """Loader processes for each training process."""
    precision: Literal["auto", "float32", "bfloat16", "float64"]
    """Of the network; `auto`: bfloat16 on GPUs that have it, else float32."""
    compile: Literal["auto"] | bool
    """torch.compile of the backbone; `auto`: where it pays and can be done."""
    recompute_clips: Positive | None
    """Save memory: in the backward pass compute activations anew, so many clips at a time."""
    loss: Loss
    optimiser: Optimiser
    augment: Augment
    log_every_steps: Positive
    checkpoint_every_s: PositiveFloat
    validate_: Annotated[Validate, Field(alias="validate")]


class Evaluate(Strict):
    """The evaluate stage."""

    seed: int
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


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path of the line, below one root."""

    root: Path

    def download(self, source: str) -> Path:
        """Files of one source and their receipt."""
        return self.root / "download" / source

    def prepare(self, source: str) -> Path:
        """Parquet of one source."""
        return self.root / "prepare" / source

    @property
    def render(self) -> Path:
        """Shards, pairs and trials."""
        return self.root / "render"

    @property
    def train(self) -> Path:
        """Weights, checkpoints, history."""
        return self.root / "train"

    @property
    def evaluate(self) -> Path:
        """Metrics, plots, report."""
        return self.root / "evaluate"

    @property
    def register(self) -> Path:
        """Lineage and card."""
        return self.root / "register"


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
        known = list(Download.model_fields)
        for name in self.sources:
            if name not in known:
                raise ValueError(f"sources: {name!r} is unknown; choose from {', '.join(known)}")
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
    try:
        params = Params.model_validate(raw)
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
