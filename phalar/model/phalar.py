"""PHALAR, its variants and its baseline: from sound to an embedding, from two to a score.

Shape letters: B batch, A anchors, P positives, N audio samples, F frequency bins, T frames, C
channels, R real and imaginary part (1 in real variants), D dimensions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phalar.model.cocola import HarmonicPercussiveEncoder
from phalar.model.complex_layers import (
    ComplexDropout,
    ComplexLinear,
    ComplexRMSNorm,
    ModReLU,
    to_complex,
    to_parts,
)
from phalar.model.cqt import BINS
from phalar.model.encoder import Encoder
from phalar.model.frontend import ConstantQDecibels, HarmonicPercussive, MelDecibels
from phalar.model.pooling import GlobalAverage, Pad, SpectralPooling
from phalar.model.similarity import (
    SEARCH_DIMENSIONS,
    ComplexBilinear,
    ComplexCosine,
    RealBilinear,
    Similarity,
    TanhBilinear,
)
from phalar.model.waveform import as_clips, resampler

VARIANTS = ("full", "gap", "magnitude", "cosine", "psd", "hermitian", "mel", "cocola")
REAL_VARIANTS = ("gap", "magnitude", "cocola")
DIMENSIONS = 512

# Clips at a time. More leave a core's cache: the backbone's modules take 27 ms a clip of 5 s by
# four and 54 ms by sixteen.
CPU_CLIPS = 4
GPU_CLIPS = 64


@dataclass(frozen=True)
class ModelConfig:
    """What there is to choose about a model; the paper's text fixes all else."""

    variant: str = "full"
    """One of `VARIANTS`: the model, its seven ablations, or the COCOLA baseline."""
    dropout: float = 0.1
    """Probability that a channel of the backbone, or an entry of the head's input, is dropped."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(
                f"model.variant: {self.variant!r} is unknown; choose one of {', '.join(VARIANTS)}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout: {self.dropout} is not a probability below 1")


class Phalar(nn.Module):
    """Embed clips so that two parts of the same moment of a song get a high score.

    Waveform -> front end -> backbone -> pooling -> head -> 512 complex numbers. The front end is
    float32 always; under autocast the backbone alone computes in bfloat16, and what follows it, a
    fiftieth of the multiplications and all of the phase, is float32 again. Embeddings then differ
    from float32 ones by 3 % of their length.

    Parameters
    ----------
    config : ModelConfig
        Which variant to build. Initial weights come from torch's global generator; `build_model`
        has an argument for it instead.

    Notes
    -----
    "PHALAR: Phasors for Learned Musical Audio Representations", arXiv 2605.03929. Unlike the
    authors' code, the dB floor is each clip's own, so a clip's embedding does not depend on the
    rest of its batch, and `score` is commutative.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.extra: dict[str, Any] = {}
        """What was saved with the model: facts of its training and origin."""
        self.sha256: str | None = None
        """Digest of the weights' file that it was loaded from; None for one that was built."""
        self.front_end = _front_end(config.variant)
        self.encoder = (
            HarmonicPercussiveEncoder() if config.variant == "cocola" else Encoder(config.dropout)
        )
        self.pooling = _pooling(config.variant, self.encoder.channels_out)
        features = self.pooling.features_out
        real = config.variant in REAL_VARIANTS
        self.head = (_real_head if real else _complex_head)(features, config.dropout)
        self.similarity = _similarity(config.variant)

    def features(self, wave_BN: Tensor) -> Tensor:
        """Turn mono sound at 16 kHz (B, N) into features (B, F, T), for COCOLA (B, 2, F, T)."""
        feature_BFT: Tensor = self.front_end(wave_BN)
        return feature_BFT

    def encode(self, feature_BFT: Tensor, *, pad: Pad = "both") -> Tensor:
        """Turn features into embeddings (B, R, D), real part first, not yet of unit length."""
        feature_BCFT = feature_BFT if feature_BFT.ndim == 4 else feature_BFT.unsqueeze(1)
        z_BCFT = self.encoder(feature_BCFT)
        with torch.autocast(z_BCFT.device.type, enabled=False):
            precision = torch.promote_types(z_BCFT.dtype, torch.float32)
            z_BRD: Tensor = self.head(self.pooling(z_BCFT.to(precision), pad=pad))
            return z_BRD

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn mono sound at 16 kHz (B, N) into embeddings (B, R, D)."""
        return self.encode(self.features(wave_BN))

    def score_matrix(
        self, anchor_ARD: Tensor, positive_PRD: Tensor, *, commutative: bool
    ) -> Tensor:
        """Score each anchor with each positive, one-way (logits) or commutative: (A, P)."""
        score_AP: Tensor = self.similarity(anchor_ARD, positive_PRD, commutative=commutative)
        return score_AP

    def score_pairs(self, anchor_BRD: Tensor, positive_BRD: Tensor, *, commutative: bool) -> Tensor:
        """Score pairs: the diagonal of `score_matrix`, (B,)."""
        return self.similarity.pairs(anchor_BRD, positive_BRD, commutative=commutative)

    def embed(
        self,
        audio: NDArray[Any] | Tensor,
        sample_rate: int,
        *,
        channel_axis: int | None = None,
        batch_size: int | None = None,
        pad: Pad = "both",
    ) -> Tensor:
        """Embed one clip or a batch of clips of one length.

        Parameters
        ----------
        audio : float or int16 array or tensor [shape=(N,) or (B, N), with channels one axis more]
            0.5 s at least; floats count 1.0 as full scale.
        sample_rate : int
            In Hz, any; other rates than 16 kHz are resampled on the model's device.
        channel_axis : int or None
            The axis of the channels, which are averaged: 0 for (channels, N), -1 for (N,
            channels). `None` says that there is none: then two axes are always (clips, samples).
        batch_size : int or None
            Clips at a time; it bounds the memory and changes nothing else. `None`: 4 on a CPU, 64
            on a GPU.
        pad : {"both", "right"}
            Where a clip under about 6 s is padded before the Fourier transform; see `pooling.Pad`.

        Returns
        -------
        complex64 tensor [shape=(512,) or (B, 512)]
            On the model's device; one clip without a batch axis gives (512,). Real variants have a
            zero imaginary part. The modes of all modules are as before, and dropout is off
            meanwhile.

        Raises
        ------
        ValueError
            Where the sound is empty, too short, not finite, or of a wrong shape or type.

        Examples
        --------
        >>> model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
        >>> model.embed(torch.randn(2, 44_100), 44_100, channel_axis=0).shape
        torch.Size([512])
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is not 1 or more")
        clips = as_clips(audio, sample_rate, channel_axis=channel_axis)
        clips_BN = clips.reshape(-1, clips.shape[-1])
        device = next(self.parameters()).device
        at_a_time = batch_size or (CPU_CLIPS if device.type == "cpu" else GPU_CLIPS)
        resample = resampler(int(sample_rate), device)
        with _evaluating(self), torch.inference_mode():
            parts = [
                self.encode(self.features(resample(part_BN.to(device))), pad=pad)
                for part_BN in torch.split(clips_BN, at_a_time)
            ]
        # Made outside inference mode, so that a probe can be trained on it.
        z_BD = to_complex(torch.cat(parts))
        return z_BD[0] if clips.ndim == 1 else z_BD

    @torch.no_grad()
    def score(self, a: Tensor, b: Tensor) -> Tensor:
        """Score complex embeddings, (512,) or (B, 512), one by one, broadcast: () or (B,).

        The score is commutative. A negative one is meaningful: the clips fit in anti-phase.
        """
        return self.score_pairs(self._parts(a), self._parts(b), commutative=True)

    @torch.no_grad()
    def search_vectors(self, z: Tensor) -> Tensor:
        """Give the reals (B, 1024) that `Similarity.query_map` scores with an inner product.

        They have unit length (in COCOLA's similarity at most 1 an entry); real variants fill up
        with zeros.
        """
        x_BE = self.similarity.normalise(self._parts(z))
        return nn.functional.pad(x_BE, (0, SEARCH_DIMENSIONS - x_BE.shape[-1]))

    def _parts(self, z: Tensor) -> Tensor:
        if z.shape[-1:] != (DIMENSIONS,) or not z.is_complex():
            raise ValueError(
                f"embedding of shape {tuple(z.shape)} and {z.dtype}: must be complex with "
                f"{DIMENSIONS} entries in the last axis, as `embed` gives it"
            )
        z_RD = to_parts(z.to(next(self.parameters()).device))
        return z_RD[..., :1, :] if self.config.variant in REAL_VARIANTS else z_RD


def build_model(config: ModelConfig, *, generator: torch.Generator | None) -> Phalar:
    """Build a model with initial weights drawn from `generator` (`None`: the global one)."""
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Phalar(config)


def _front_end(variant: str) -> ConstantQDecibels | MelDecibels | HarmonicPercussive:
    if variant == "cocola":
        return HarmonicPercussive()
    return MelDecibels() if variant == "mel" else ConstantQDecibels()


def _pooling(variant: str, channels: int) -> SpectralPooling | GlobalAverage:
    if variant in ("gap", "cocola"):
        return GlobalAverage(channels)
    return SpectralPooling(channels, BINS, magnitude=variant == "magnitude")


def _similarity(variant: str) -> Similarity:
    if variant == "cocola":
        return TanhBilinear(DIMENSIONS)
    if variant == "cosine":
        return ComplexCosine(DIMENSIONS)
    if variant in REAL_VARIANTS:
        return RealBilinear(DIMENSIONS)
    if variant == "psd":
        return ComplexBilinear(DIMENSIONS, "psd")
    return ComplexBilinear(DIMENSIONS, "hermitian" if variant == "hermitian" else "one-way")


def _complex_head(features: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            dropout=ComplexDropout(dropout),
            hidden=ComplexLinear(features, DIMENSIONS),
            norm=ComplexRMSNorm(DIMENSIONS),
            activation=ModReLU(DIMENSIONS),
            output=ComplexLinear(DIMENSIONS, DIMENSIONS),
        )
    )


def _real_head(features: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            hidden=nn.Linear(features, DIMENSIONS),
            norm=nn.BatchNorm1d(DIMENSIONS),
            activation=nn.SiLU(),
            output=nn.Linear(DIMENSIONS, DIMENSIONS),
            unflatten=nn.Unflatten(1, (1, DIMENSIONS)),
        )
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation and every module back to its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
