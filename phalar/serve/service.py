"""What the API answers, apart from HTTP: sound in, embeddings, scores, candidates and sound out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

import numpy as np

from phalar import audio, infer
from phalar.model import Phalar
from phalar.search import Moment, Searcher, Wanted, rendering
from phalar.search import change as changing
from phalar.search.fit import fit
from phalar.search.moment import Mix, sum_moments
from phalar.search.query import Found
from phalar.search.record import record
from phalar.search.store import Entry
from phalar.search.windows import Sound

P = ParamSpec("P")
Answer = TypeVar("Answer")

LONGEST_S = 1800.0
"""Of longer sound nothing is taken: decoded it would fill the memory."""

PEAKS = 1200
"""Columns of a waveform."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was sent."""

    name: str
    """As its sender calls it: for messages alone, never for a path."""
    file: BinaryIO


def _by_a_few(
    work: Callable[Concatenate[Service, P], Answer],
) -> Callable[Concatenate[Service, P], Answer]:
    """Let one of the service's own threads do the work, and wait for it.

    A thread that has computed keeps its buffers: with the forty of the server, memory grew by 700
    MB until each of them had its own.
    """

    @wraps(work)
    def waiting(self: Service, /, *given: P.args, **named: P.kwargs) -> Answer:
        return self._threads.submit(work, self, *given, **named).result()

    return waiting


class Service:
    """A model and an index, asked by many at a time, worked at by a few.

    Parameters
    ----------
    model : Phalar
        That the index was made with.
    searcher : Searcher
        Of the index.
    workers : int
        How many requests compute at the same time; the others wait, and hold no decoded sound.
    """

    def __init__(self, model: Phalar, searcher: Searcher, *, workers: int) -> None:
        self.model, self.searcher = model, searcher
        self._entries = {entry.sha256: entry for entry in searcher.index.entries if entry.windows}
        self._threads = ThreadPoolExecutor(workers, "phalar")

    def info(self) -> dict[str, Any]:
        """Say what is searched."""
        index = self.searcher.index
        found = {entry.instrument for entry in self._entries.values()}
        return {
            "library": index.facts.library.name,
            "files": len(self._entries),
            "window_s": index.facts.grid.window_s,
            "hop_s": index.facts.grid.hop_s,
            "longest_s": LONGEST_S,
            "search": "exact" if self.searcher.codes is None else "approximate",
            "recall": None if self.searcher.quality is None else self.searcher.quality.recall,
            "instruments": sorted(name for name in found if name),
        }

    @_by_a_few
    def waveform(self, upload: Upload) -> dict[str, Any]:
        """Give the length of a file and what its waveform looks like, 0 to 1."""
        sound = _decode(upload)
        width = -(-len(sound) // PEAKS)
        padded = np.pad(np.abs(sound), (0, -len(sound) % width)).reshape(-1, width)
        peaks = padded.max(axis=1) / max(float(padded.max()), 1e-6)
        seconds = len(sound) / audio.SAMPLE_RATE_HZ
        return {"seconds": seconds, "peaks": np.round(peaks, 3).tolist()}

    @_by_a_few
    def embed(self, upload: Upload, start_s: float, seconds: float) -> dict[str, list[float]]:
        """Embed a moment of a file."""
        with _named(upload):
            z = infer.embed(
                self.model,
                _decode(upload),
                sample_rate=audio.SAMPLE_RATE_HZ,
                start_s=start_s,
                seconds=seconds,
            )
        return {"real": z.real.tolist(), "imag": z.imag.tolist()}

    @_by_a_few
    def score(
        self, a: Upload, b: Upload, start_s: float, seconds: float | None
    ) -> dict[str, float | None]:
        """Score two files that start together."""
        value = infer.score(
            self.model,
            _decode(a),
            _decode(b),
            sample_rate=audio.SAMPLE_RATE_HZ,
            start_s=start_s,
            seconds=seconds,
        )
        return {"score": value, "percentile": infer.percentile(self.model, value)}

    @_by_a_few
    def search(
        self,
        uploads: Sequence[Upload],
        moment: Moment,
        wanted: Wanted,
        tried: Sequence[changing.Change],
        *,
        refine: bool,
    ) -> list[dict[str, Any]]:
        """Find what fits a moment of files that are summed."""
        mix = self._mix(uploads, moment)
        found = fit(self.model, self.searcher, mix, wanted, tried, refine=refine)
        return [
            {"id": each.entry.sha256, "name": Path(each.entry.path).name} | record(self.model, each)
            for each in found
        ]

    @_by_a_few
    def audition(
        self, uploads: Sequence[Upload], moment: Moment, candidate: Found, *, alone: bool
    ) -> bytes:
        """Play a candidate with the moment that it was found for, or alone, as a WAV file."""
        mix = self._mix(uploads, moment).sound
        sound = changing.read_from(self.searcher, candidate, len(mix))
        beside = rendering.matched(mix, sound)
        heard = rendering.limited(beside if alone else mix + beside)
        return audio.encode(heard, container="WAV")

    def entry(self, sha256: str) -> Entry | None:
        """Find a file by what it is called in the answers; nothing else can be asked for."""
        return self._entries.get(sha256)

    def path(self, sha256: str) -> Path | None:
        """Give the file of an entry; None where there is no such entry, or no file any more."""
        entry = self.entry(sha256)
        path = None if entry is None else self.searcher.index.path_of(entry)
        return path if path is not None and path.is_file() else None

    def _mix(self, uploads: Sequence[Upload], moment: Moment) -> Mix:
        sounds = [(upload.name, _decode(upload)) for upload in uploads]
        return sum_moments(sounds, moment, self.searcher.index.facts.grid)


@contextmanager
def _named(upload: Upload) -> Iterator[None]:
    """Put the sender's name of a file before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if upload.name in text else f"{upload.name}: {text}") from error


def _decode(upload: Upload) -> Sound:
    """Decode a file that was sent to mono at the model's rate, through a name of our own."""
    with tempfile.NamedTemporaryFile(prefix="phalar-") as file:
        shutil.copyfileobj(upload.file, file)
        upload.file.seek(0)
        file.flush()
        blocks, samples = [], 0
        try:
            for block in audio.blocks_mono(file.name):
                blocks.append(block)
                samples += len(block)
                if samples > LONGEST_S * audio.SAMPLE_RATE_HZ:
                    raise ValueError(f"{upload.name}: longer than {LONGEST_S / 60:g} minutes")
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, upload.name)) from None
    return np.concatenate(blocks)
