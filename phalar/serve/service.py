"""What the API answers, apart from HTTP: sound in, embeddings, scores, candidates and sound out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phalar import audio, infer
from phalar.model import Phalar
from phalar.search import Moment, Searcher, Wanted, rendering
from phalar.search import change as changing
from phalar.search.fit import fit
from phalar.search.moment import Mix, sum_moments
from phalar.search.query import Found
from phalar.search.record import record
from phalar.search.windows import Sound
from phalar.serve.library import Library, Opened
from phalar.serve.turns import Turns
from phalar.serve.uploads import Decoder, Upload
from phalar.sound import refuse_past_end, refuse_short

PEAKS = 1200
"""Columns of a waveform."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of the library as a search found it."""

    id: str
    """Digest of its content."""
    start_s: float = 0.0
    transpose_st: int = 0


class Service:
    """A model and an index, asked by many at a time, worked at by a few.

    Its answers are computed by who calls for them; `turns` is for callers that are many.

    Parameters
    ----------
    model : Phalar
        That the index was made with.
    searcher : Searcher
        Of the index.
    workers : int
        How many requests compute at the same time.
    """

    def __init__(self, model: Phalar, searcher: Searcher, *, workers: int) -> None:
        self.model = model
        self.library, self.decoder, self.turns = Library(searcher), Decoder(), Turns(workers)

    @property
    def searcher(self) -> Searcher:
        """Of the index as it is now."""
        return self.library.current().searcher

    def info(self) -> dict[str, Any]:
        """Say what is searched."""
        return self.library.current().info

    def waveform(self, upload: Upload) -> dict[str, Any]:
        """Give the length of a file and what its waveform looks like, 0 to 1."""
        (sound,) = self.decoder.decode([upload])
        starts = np.arange(0, len(sound), -(-len(sound) // PEAKS))
        peaks = np.maximum(np.maximum.reduceat(sound, starts), -np.minimum.reduceat(sound, starts))
        peaks /= max(float(peaks.max()), 1e-6)
        seconds = len(sound) / audio.SAMPLE_RATE_HZ
        return {"seconds": seconds, "peaks": np.round(peaks, 3).tolist()}

    def embed(self, upload: Upload, start_s: float, seconds: float) -> dict[str, list[float]]:
        """Embed a moment of a file."""
        (sound,) = self.decoder.decode([upload])
        _refuse_short(upload, sound, start_s)
        z = infer.embed(
            self.model, sound, sample_rate=audio.SAMPLE_RATE_HZ, start_s=start_s, seconds=seconds
        )
        return {"real": z.real.tolist(), "imag": z.imag.tolist()}

    def score(
        self, a: Upload, b: Upload, start_s: float, seconds: float | None
    ) -> dict[str, float | None]:
        """Score two files that start together."""
        sounds = self.decoder.decode([a, b])
        for upload, sound in zip((a, b), sounds, strict=True):
            _refuse_short(upload, sound, start_s)
        value = infer.score(
            self.model,
            *sounds,
            sample_rate=audio.SAMPLE_RATE_HZ,
            start_s=start_s,
            seconds=seconds,
        )
        return {"score": value, "percentile": infer.percentile(self.model, value)}

    def search(
        self,
        uploads: Sequence[Upload],
        moment: Moment,
        wanted: Wanted,
        tried: Sequence[changing.Change],
        *,
        refine: bool,
    ) -> list[dict[str, Any]]:
        """Find what fits a moment of files that are summed, other than these files themselves."""
        opened = self.library.current()
        wanted = replace(wanted, not_sha256=frozenset(upload.sha256 for upload in uploads))
        mix = self._mix(opened, uploads, moment)
        found = fit(self.model, opened.searcher, mix, wanted, tried, refine=refine)
        return [
            {"id": each.entry.sha256, "name": Path(each.entry.path).name} | record(self.model, each)
            for each in found
        ]

    def audition(
        self, uploads: Sequence[Upload], moment: Moment, candidate: Candidate, *, alone: bool
    ) -> bytes:
        """Play a candidate with the moment that it was found for, or alone, as a WAV file."""
        opened = self.library.current()
        entry, _ = opened.find(candidate.id)
        mix = self._mix(opened, uploads, moment).sound
        found = Found(entry, 0.0, candidate.start_s, candidate.transpose_st)
        try:
            sound = changing.read_from(opened.searcher, found, len(mix))
        except (ValueError, OSError) as error:
            # Where the library lies is nobody's business.
            path = str(opened.searcher.index.path_of(entry))
            raise ValueError(str(error).replace(path, entry.path)) from None
        beside = rendering.matched(mix, sound)
        heard = rendering.limited(beside if alone else mix + beside)
        return audio.encode(heard, container="WAV")

    def original(self, sha256: str) -> tuple[Path, str]:
        """Give a file of the library, and its name there; errors are those of `Opened.find`."""
        entry, path = self.library.current().find(sha256)
        return path, Path(entry.path).name

    def _mix(self, opened: Opened, uploads: Sequence[Upload], moment: Moment) -> Mix:
        sounds = self.decoder.decode(uploads)
        named = [(upload.name, sound) for upload, sound in zip(uploads, sounds, strict=True)]
        return sum_moments(named, moment, opened.searcher.index.facts.grid)


def _refuse_short(upload: Upload, sound: Sound, start_s: float) -> None:
    """Refuse a file of which too little is left, by its sender's name for it."""
    refuse_past_end(upload.name, len(sound), start_s)
    refuse_short(upload.name, len(sound), start_s)
