"""Load a model by path or registry name; embed and score sound from files or arrays."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar import audio, calibration
from phalar.calibration import HOP_S, WINDOW_S
from phalar.model import Phalar, weights
from phalar.sound import LONGEST_S, Sound, cut_moment, whole

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 64
"""Those of a long sound are together twice its size."""

AUDIBLE_PEAK = 1e-3
"""A window that never goes beyond -60 dB of full scale says nothing of what fits."""

REGISTERED = re.compile(r"(models:/)?[\w-]+(@[\w-]+|/\d+|/latest)?")
"""`phalar`, `phalar@champion`, `phalar/3`, with MLflow's `models:/` before it or not."""


CHAMPION = "phalar@champion"
"""What `champion` alone means: the model that users get."""


def load_model(name: str | PathLike[str]) -> Phalar:
    """Load a model from disk or from the registry, ready to embed (on the CPU, in evaluation mode).

    Parameters
    ----------
    name : str or path
        A folder with `model.safetensors` and `model.json` or the former itself; else a name in the
        MLflow registry: `champion` or `phalar@champion` (an alias), `phalar/3` (a version),
        `phalar` (the newest). MLFLOW_TRACKING_URI says where the registry is, by default
        `mlflow.db` here.

    Raises
    ------
    FileNotFoundError
        It is neither a path nor, in form, the name of a registered model.
    ValueError
        The files are damaged, or the registry has no such model.

    Examples
    --------
    >>> model = phalar.load_model("data/train")  # doctest: +SKIP
    """
    path, text = Path(name), str(name)
    # A folder of that name need not be a model: the package itself is one called `phalar`.
    if path.suffix == ".safetensors" or (path / weights.WEIGHTS_FILE).is_file():
        return _load(path)
    if isinstance(name, PathLike) or not REGISTERED.fullmatch(text):
        raise FileNotFoundError(
            f"{text}: no such model; give a folder with model.safetensors and model.json, or a "
            "registered name such as phalar@champion"
        )
    # MLflow takes seconds to import, and a model on disk does not need it.
    from phalar import registry

    return _load(registry.fetch(CHAMPION if text == "champion" else text))


def _load(path: Path) -> Phalar:
    """Load a model from disk, and with it what its scores mean, where that was measured."""
    model = weights.load_model(path)
    folder = path.parent if path.suffix == ".safetensors" else path
    if model.sha256 is not None and (found := calibration.find(folder, model.sha256)):
        model.extra["calibration"] = calibration.as_record(found)
    return model


def embed(
    model: Phalar,
    sound: Sound,
    *,
    sample_rate: int | None = None,
    start_s: float = 0.0,
    seconds: float = LONGEST_S,
) -> Tensor:
    """Embed one moment of a file or an array; `embed_windows` hears all of a long one.

    Parameters
    ----------
    model : Phalar
        From `load_model`, on any device.
    sound : path, or float or int16 array [shape=(N,) or (channels, N)]
        A sound file of any rate and number of channels, or samples; floats have 1.0 as full scale.
    sample_rate : int, optional
        In Hz; needed for arrays, and not used for files.
    start_s, seconds : float
        The moment that is heard: where it starts and how long it is at most. Longer clips than
        10 s are beyond what models are trained on.

    Returns
    -------
    complex64 tensor [shape=(512,)]

    Raises
    ------
    ValueError
        The sound cannot be read, ends before the moment, or is under 0.5 s.
    """
    heard = cut_moment(sound, sample_rate, start_s=start_s, seconds=seconds)
    return model.embed(heard, audio.SAMPLE_RATE_HZ)


def embed_windows(
    model: Phalar,
    sound: Sound,
    *,
    sample_rate: int | None = None,
    window_s: float = WINDOW_S,
    hop_s: float = HOP_S,
) -> tuple[NDArray[np.float64], Tensor]:
    """Embed all of a long file or array, window by window.

    Parameters
    ----------
    model, sound, sample_rate
        As in `embed`.
    window_s, hop_s : float
        Length of a window, and the distance of two starts. What is left at the end and fills no
        window is not heard; sound shorter than a window is one, as long as it is.

    Returns
    -------
    starts_s : float array [shape=(W,)]
        Where the windows start.
    z : complex64 tensor [shape=(W, 512)]

    Raises
    ------
    ValueError
        The sound cannot be read or is under 0.5 s, or the windows are no windows.
    """
    window, hop = (round(time_s * audio.SAMPLE_RATE_HZ) for time_s in (window_s, hop_s))
    if window < 1 or hop < 1:
        raise ValueError(
            f"windows of {window_s:g} s every {hop_s:g} s: must be longer than 0, and further apart"
        )
    _, heard = whole(sound, sample_rate)
    starts = _starts(len(heard), window, hop)
    z = torch.cat([_embed_at(model, heard, some, window) for some in _few(starts)])
    return np.array(starts) / audio.SAMPLE_RATE_HZ, z


class Score(float):
    """A score, which knows of how many windows it is the mean."""

    windows: int

    def __new__(cls, value: float, windows: int = 1) -> Score:
        """Take a number, and how many it is the mean of."""
        made = super().__new__(cls, value)
        made.windows = windows
        return made


def score(
    model: Phalar,
    a: Sound,
    b: Sound,
    *,
    sample_rate: int | None = None,
    start_s: float = 0.0,
    seconds: float | None = None,
) -> Score:
    """Score how well two parts of music fit when both start together; higher is better.

    The score does not depend on the order. Its scale is the model's own: compare scores of one
    model with each other, or take their `percentile`. Both are cut to the length of the shorter
    one, because an embedding measures time in fractions of what it heard.

    Parameters
    ----------
    model, sample_rate, start_s
        As in `embed`.
    a, b : path, or float or int16 array [shape=(N,) or (channels, N)]
        What is compared.
    seconds : float, optional
        Length of the moment that is compared, as one clip. None takes all: up to 10 s as one clip,
        more as the mean score of windows of 5 s every 2.5 s, without those in which one is silent.

    Returns
    -------
    Score
        A float, for `percentile` with the number of windows whose mean it is.

    Raises
    ------
    ValueError
        As in `embed`; or two long sounds are never heard at the same time.
    """
    length_s = np.inf if seconds is None else seconds
    heard = [cut_moment(sound, sample_rate, start_s=start_s, seconds=length_s) for sound in (a, b)]
    shorter = min(len(sound) for sound in heard)
    window, hop = shorter, shorter
    if seconds is None and shorter > LONGEST_S * audio.SAMPLE_RATE_HZ:
        window, hop = (round(time_s * audio.SAMPLE_RATE_HZ) for time_s in (WINDOW_S, HOP_S))
    starts = _starts(shorter, window, hop)
    if len(starts) > 1:
        # A single clip is scored whatever it holds.
        starts = [
            at
            for at in starts
            if all(np.abs(sound[at : at + window]).max() >= AUDIBLE_PEAK for sound in heard)
        ]
    if not starts:
        raise ValueError("the two are never heard at the same time; choose a moment of both")
    scores = [
        model.score(*(_embed_at(model, sound, some, window) for sound in heard))
        for some in _few(starts)
    ]
    return Score(float(torch.cat(scores).mean()), len(starts))


def _starts(samples: int, window: int, hop: int) -> list[int]:
    """Where windows start that lie within so many samples; 0 alone where not one does."""
    return list(range(0, max(samples - window, 0) + 1, hop))


def _few(starts: list[int]) -> Iterator[list[int]]:
    """Give a few starts at a time."""
    for place in range(0, len(starts), WINDOWS_AT_ONCE):
        yield starts[place : place + WINDOWS_AT_ONCE]


def _embed_at(model: Phalar, sound: NDArray[np.float32], starts: list[int], window: int) -> Tensor:
    clips = np.stack([sound[at : at + window] for at in starts])
    return model.embed(clips, audio.SAMPLE_RATE_HZ)


def percentile(model: Phalar, score: float, *, windows: int | None = None) -> float | None:
    """Say how many percent of mismatched pairs score lower, 0 to 100.

    A mean over many windows lies nearer to the middle by chance than a score of one does: so the
    pairs that it is compared with are means over as many.

    Parameters
    ----------
    model : Phalar
        From `load_model`.
    score : float
        From `phalar.score` or `model.score`, best of clips of about the length that the model was
        evaluated with.
    windows : int, optional
        Of how many windows the score is the mean; None asks the score, and takes a number for one.

    Returns
    -------
    float or None
        None for a model that was not evaluated, such as one that was just built.
    """
    record = model.extra.get("calibration")
    if record is None:
        return None
    count = getattr(score, "windows", 1) if windows is None else windows
    return calibration.from_record(record).percentile(score, count)


class Served:
    """What MLflow loads and serves: clips in, their embeddings and scores out."""

    def __init__(self, model: Phalar) -> None:
        self.model = model

    def predict(
        self, model_input: NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Embed clips, and score each with each.

        Parameters
        ----------
        model_input : float32 array [shape=(B, N)]
            Mono sound, full scale 1.0; N = 0 where there are only files.
        params : dict, optional
            `sample_rate` of the arrays in Hz, by default 16,000. `files`: sound files of any kind,
            rate and length, such as FLAC, each in base64; they come behind the arrays.

        Returns
        -------
        dict
            `embedding` [shape=(B, 2, 512)], real before imaginary part, and `score` [shape=(B, B)].

        Raises
        ------
        ValueError
            There is nothing to hear, or a file cannot be read.
        """
        asked = params or {}
        rate_hz = int(asked.get("sample_rate", audio.SAMPLE_RATE_HZ))
        clips = np.asarray(model_input)
        found = list(self.model.embed(clips, rate_hz)) if clips.size else []
        # Files differ in length, so that each is heard by itself.
        for number, text in enumerate(asked.get("files", ())):
            found.append(self.model.embed(_from_base64(text, number), audio.SAMPLE_RATE_HZ))
        if not found:
            raise ValueError("nothing to hear: give samples as `inputs`, or `files` in `params`")
        z = torch.stack(found)
        scores = self.model.score(z[:, None], z[None, :])
        parts = torch.stack([z.real, z.imag], dim=1)
        return {"embedding": parts.cpu().numpy(), "score": scores.cpu().numpy()}


def _from_base64(text: str, number: int) -> NDArray[np.float32]:
    try:
        heard = audio.load_mono(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ValueError(f"files[{number}]: {error}; must be a sound file in base64") from None
    if len(heard) > (longest := round(LONGEST_S * audio.SAMPLE_RATE_HZ)):
        logger.warning("files[%d]: only its first %g s are heard", number, LONGEST_S)
    return heard[:longest]


def _load_pyfunc(path: str) -> Served:
    """Load a registered model; MLflow asks the module that a model names for this function."""
    return Served(weights.load_model(path))
