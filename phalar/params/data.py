"""The sections of params.yaml that make the data: download, prepare, render."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from phalar.params.types import Fraction, Positive, PositiveFloat, Seed, Strict, Workers


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

    seed: Seed
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

    seed: Seed
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
