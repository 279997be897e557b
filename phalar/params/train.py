"""The section of params.yaml that makes the model: train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from phalar.params.types import Fraction, Positive, PositiveFloat, Range, Seed, Strict, Workers


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
    endpoint: Annotated[str, Field(pattern=r".+:\d+")]
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

    seed: Seed
    variant: Literal["full", "gap", "magnitude", "cosine", "psd", "hermitian", "mel", "cocola"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    identity_start: PositiveFloat | None
    """The complex similarity starts at so many times the identity; null: at random."""
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
    """Threads of each training process that read batches ahead; 0: it reads between its steps."""
    precision: Literal["auto", "float32", "bfloat16", "float64"]
    """Of the network; `auto`: bfloat16 on GPUs that have it, else float32."""
    compile: Literal["auto"] | bool
    """torch.compile of the backbone; `auto`: where it pays and can be done."""
    recompute_clips: Positive | None
    """Save memory: hold the activations of so many clips at a time, and compute them anew in the
    backward pass. The loss is still that of the whole batch, and so is the gradient."""
    loss: Loss
    optimiser: Optimiser
    augment: Augment
    log_every_steps: Positive
    checkpoint_every_s: PositiveFloat
    validate_: Annotated[Validate, Field(alias="validate")]
