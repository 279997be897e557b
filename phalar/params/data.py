"""The sections of params.yaml that make the data: download, prepare, render."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from phalar.params.types import Fraction, Positive, PositiveFloat, Seed, Strict, Workers

Archive96 = Annotated[int, Field(ge=1, le=96)]
Archive12 = Annotated[int, Field(ge=1, le=12)]
Store = Annotated[str, Field(pattern=r"^[a-z0-9]+://.*[^/]$")]
"""Address below which a stage keeps its big files, by fsspec; where they lie changes no byte."""


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


class DownloadWhole(Strict):
    """A published data set that is fetched as a whole: there is nothing to choose."""


class DownloadCocochorales(Strict):
    """Which of the archives of CocoChorales are fetched, by number."""

    train: Annotated[list[Archive96], Field(min_length=1)]
    valid: Annotated[list[Archive12], Field(min_length=1)]
    test: Annotated[list[Archive12], Field(min_length=1)]


class DownloadOwn(Strict):
    """Music that the user puts into place."""

    path: str
    """An archive, or its unpacked folder; a relative path starts at this file."""


class Fetch(Strict):
    """How files come from the web; nothing here changes what comes."""

    workers: Positive
    """Files at once."""
    tries: Positive
    """A file is given up after so many failures in a row that brought nothing on."""
    timeout_s: PositiveFloat
    """A connection that is silent for so long has failed."""
    mirrors: dict[str, str]
    """Beginnings of addresses, and what to put in their place."""
    have: str | None
    """Folder of archives that are there already, under their published names; null: none."""


class Download(Strict):
    """The download stage, one entry a source; sources that are not used need none."""

    fetch: Fetch
    chorales: DownloadChorales | None = None
    bands: DownloadBands | None = None
    slakh2100: DownloadWhole | None = None
    cocochorales: DownloadCocochorales | None = None
    moisesdb: DownloadOwn | None = None
    musdb18hq: DownloadWhole | None = None
    folder: DownloadOwn | None = None


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


class PrepareRecorded(Strict):
    """What is asked of the stems of recorded tracks."""

    max_s: PositiveFloat
    """Longer tracks are cut here, so that a track fits in memory."""
    shortest_stem: Fraction
    """A stem is shorter than this share of its track's longest: the track is bad."""
    silent_db: float
    """A stem whose loudest sample is below this, in dB of full scale, is silent and left out."""
    duplicate: Fraction
    """Tracks of two splits that share this much of their fingerprints are reported."""


class PrepareMoisesdb(PrepareRecorded):
    """MoisesDB has no published split."""

    split: Literal["artist", "paper"]
    """`artist`: no artist in two splits; `paper`: the lists of PHALAR's authors, by song."""


class Prepare(Strict):
    """The prepare stage; sources that are not used need no entry."""

    seed: Seed
    workers: Workers
    max_bad_fraction: Fraction
    """More bad tracks than this share of those found is an error."""
    store: Store | None
    """Where the parquet lie, such as `s3://bucket/phalar/prepare`; null: data/prepare."""
    split: Splits
    chorales: PrepareScores | None = None
    bands: PrepareScores | None = None
    slakh2100: PrepareRecorded | None = None
    cocochorales: PrepareRecorded | None = None
    moisesdb: PrepareMoisesdb | None = None
    musdb18hq: PrepareRecorded | None = None
    folder: PrepareRecorded | None = None


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
    runner: Annotated[str, Field(pattern=r"^(processes|dask|(tcp|tls)://.+)$")]
    """`processes` of this machine, `dask` (a cluster started here), or a Dask scheduler's address;
    the bytes are the same."""
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
    store: Store | None
    """Where the shards lie, such as `s3://bucket/phalar/render`; null: data/render."""
