"""Files that are sent: checked by their headers, decoded once, the last ones kept decoded."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import soundfile

from phalar import audio
from phalar.search.windows import Sound

LONGEST_S = 2400.0
"""Of all files of a request together, such as eight stems of a song of five minutes: decoded they
take 154 MB."""

MOST_CHANNELS = 32

MOST_SAMPLES = 400_000_000
"""Of all channels of all files at their own rate: about ten seconds of decoding."""

BLOCK_SAMPLES = 1 << 22
"""So many of all channels are decoded at a time, 17 MB."""

KEPT_BYTES = 160 << 20
"""Of decoded sound: what the longest request needs, or forty minutes of mixes."""

OPEN_FRAMES = 1 << 62
"""From here on a header says that its writer did not know."""

ROUNDING = 1024
"""By so many samples a resampler may give more than asked for."""


@dataclass(frozen=True)
class Upload:
    """A file that was sent."""

    name: str
    """As its sender calls it: for messages alone, never for a path."""
    file: BinaryIO

    @cached_property
    def sha256(self) -> str:
        """Digest of the bytes that were sent, as an index names content."""
        self.file.seek(0)
        digest = hashlib.sha256()
        while part := self.file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()


class Decoder:
    """Decodes what was sent, and keeps the last of it by the digest of the bytes.

    The same mix is asked about again and again: for its waveform, from each moment, with each
    candidate.

    Parameters
    ----------
    most_bytes : int
        So much decoded sound is kept.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.most_bytes, self.kept_bytes, self.decoded = most_bytes, 0, 0
        self._kept: OrderedDict[str, Sound] = OrderedDict()
        self._lock = threading.Lock()

    def decode(self, uploads: Sequence[Upload]) -> list[Sound]:
        """Decode the files of a request to mono at the model's rate.

        Parameters
        ----------
        uploads : sequence of Upload

        Returns
        -------
        list of float32 array [shape=(N,)]
            Read-only, as others may have the same.

        Raises
        ------
        ValueError
            A file cannot be decoded, its header says what cannot be, or all are too much. This is
            found before any of them is decoded.
        """
        digests = [upload.sha256 for upload in uploads]
        found = {digest: self._find(digest) for digest in digests}
        infos = {
            digest: _header(upload)
            for digest, upload in zip(digests, uploads, strict=True)
            if found[digest] is None
        }
        _refuse_much(uploads, [infos.get(digest) or found[digest] for digest in digests])
        sounds = []
        for digest, upload in zip(digests, uploads, strict=True):
            sound = found[digest]
            if sound is None:
                sound = found[digest] = _decode(upload, infos[digest])
                self._keep(digest, sound)
            sounds.append(sound)
        return sounds

    def _find(self, digest: str) -> Sound | None:
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def _keep(self, digest: str, sound: Sound) -> None:
        with self._lock:
            self.decoded += 1
            # Two who came at once may have decoded the same.
            if sound.nbytes > self.most_bytes or digest in self._kept:
                return
            self._kept[digest] = sound
            self.kept_bytes += sound.nbytes
            while self.kept_bytes > self.most_bytes:
                self.kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def _header(upload: Upload) -> Any:
    """Read what a file says of itself, and refuse what no recording is."""
    upload.file.seek(0)
    try:
        info = soundfile.info(upload.file)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{upload.name}: cannot be decoded ({error.error_string}); give a WAV, FLAC, AIFF, OGG "
            "or MP3 file"
        ) from None
    low, high = audio.PLAUSIBLE_HZ
    if not low <= info.samplerate <= high:
        raise ValueError(
            f"{upload.name}: its header says {info.samplerate} Hz, must be {low} to {high}; export "
            "it anew"
        )
    if info.channels > MOST_CHANNELS:
        raise ValueError(
            f"{upload.name}: has {info.channels} channels, at most {MOST_CHANNELS} are mixed down; "
            "send a mix of them"
        )
    if info.frames >= OPEN_FRAMES:
        raise ValueError(f"{upload.name}: its header does not say how long it is; export it anew")
    return info


def _refuse_much(uploads: Sequence[Upload], known: Sequence[Any]) -> None:
    """Refuse files that together are too long, by their headers or as they were decoded."""
    names = ", ".join(upload.name for upload in uploads[:3])
    if len(uploads) > 3:
        names = f"{names} and {len(uploads) - 3} more"
    seconds = sum(
        len(each) / audio.SAMPLE_RATE_HZ
        if isinstance(each, np.ndarray)
        else each.frames / each.samplerate
        for each in known
    )
    if seconds > LONGEST_S:
        raise ValueError(
            f"{names}: {seconds / 60:.1f} min; at most {LONGEST_S / 60:g} min of all files are "
            "decoded, send the part that matters"
        )
    samples = sum(
        0 if isinstance(each, np.ndarray) else each.frames * each.channels for each in known
    )
    if samples > MOST_SAMPLES:
        raise ValueError(
            f"{names}: {samples / 1e6:.1f} million samples of all channels, at most "
            f"{MOST_SAMPLES / 1e6:g} million are decoded; send a mix of them at a lower rate, or "
            "the part that matters"
        )


def _decode(upload: Upload, info: Any) -> Sound:
    """Decode a file block by block, through a name of our own."""
    most = -(-info.frames * audio.SAMPLE_RATE_HZ // info.samplerate) + ROUNDING
    block_s = BLOCK_SAMPLES / (info.samplerate * info.channels)
    # What is never written takes no memory: a header may say more than there is.
    sound, samples = np.empty(most, np.float32), 0
    with tempfile.NamedTemporaryFile(prefix="phalar-") as file:
        upload.file.seek(0)
        shutil.copyfileobj(upload.file, file)
        file.flush()
        try:
            for block in audio.blocks_mono(file.name, block_s=block_s):
                sound[samples : samples + len(block)] = block
                samples += len(block)
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, upload.name)) from None
    sound = sound[:samples]
    sound.flags.writeable = False
    return sound
