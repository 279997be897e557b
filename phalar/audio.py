"""Read, mix down, resample and write sound: the only file that opens sound files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE_HZ = 16_000
"""The rate of everything behind `prepare`: the model hears up to 8 kHz."""

LEVEL_HOP_S = 0.1
"""One level value of a stem covers this much time."""

QUALITY = "HQ"
"""soxr's: aliases at -140 dB, flat to 7 kHz of 8."""

BLOCK_FRAMES = 1 << 17
"""Recordings are decoded so many frames at a time."""

BLOCK_SAMPLES = 1 << 23
"""Nor more samples of all channels together, 32 MB."""

PLAUSIBLE_HZ = (8_000, 384_000)
"""Rates that music is recorded at."""

OPEN_END_BYTES = 0x7FFF_0000
"""From here on the size in a header says that its writer did not know."""

OGG_PAGE_BYTES = 65_536
"""No page of an Ogg is longer."""

SILENCE_DB = -100.0
"""The level of digital silence, so that levels stay finite."""


def read_audio(
    file: str | PathLike[str] | bytes, *, frames: slice | None = None
) -> tuple[np.ndarray, int]:
    """Decode a sound file to its end, whatever its header claims.

    Parameters
    ----------
    file : path or bytes
        Any format that libsndfile reads (WAV, AIFF, FLAC, OGG, MP3, ...).
    frames : slice, optional
        Only these sample frames, found by seeking.

    Returns
    -------
    audio : float32 array [shape=(channels, N)]
    sample_rate_hz : int

    Raises
    ------
    ValueError
        The file cannot be decoded, is empty, or ends before its header says.
    """
    name = "sound in memory" if isinstance(file, bytes) else str(file)
    try:
        with soundfile.SoundFile(io.BytesIO(file) if isinstance(file, bytes) else file) as sound:
            start, stop = (0, sound.frames) if frames is None else (frames.start, frames.stop)
            if frames is None:
                _refuse_cut(name, sound.extra_info)
            sound.seek(start)
            audio = sound.read(stop - start, dtype="float32", always_2d=True)
            rate_hz = int(sound.samplerate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(name, error) from error
    if len(audio) == 0:
        raise ValueError(f"{name}: holds no samples; replace or remove the file")
    if len(audio) != stop - start:
        raise ValueError(
            f"{name}: ends after {len(audio)} of {stop - start} samples; it is cut, get it again"
        )
    return audio.T, rate_hz


def read_recorded(
    file: str | PathLike[str], *, longest_s: float, only_hz: int | None = None
) -> np.ndarray:
    """Decode a recording of any length to its end, mixed down and resampled as it comes.

    The memory is that of the result: what is decoded never lies there whole.

    Parameters
    ----------
    file : path
    longest_s : float
        What comes after is decoded and checked too, but not kept.
    only_hz : int, optional
        The rate that all files of a source have.

    Returns
    -------
    audio : float32 array [shape=(N,)]
        At `SAMPLE_RATE_HZ`.

    Raises
    ------
    ValueError
        The file cannot be decoded, is cut, empty, of a rate that cannot be, or holds samples that
        are not finite.
    """
    parts, read = [], 0
    try:
        with soundfile.SoundFile(file) as sound:
            rate_hz = _plausible_rate(file, int(sound.samplerate), only_hz)
            _refuse_cut(file, sound.extra_info)
            if sound.format == "OGG":
                _refuse_cut_ogg(Path(file))
            stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, quality=QUALITY)
            kept = round(longest_s * rate_hz)
            buffer = np.empty((BLOCK_FRAMES, sound.channels), dtype=np.float32)
            is_last = False
            while not is_last:
                block = _mean(sound.read(out=buffer))
                is_last = len(block) < BLOCK_FRAMES
                if not np.isfinite(block.sum()):
                    raise ValueError(f"{file}: holds samples that are not finite; export it again")
                use = block[: max(kept - read, 0)]
                if rate_hz == SAMPLE_RATE_HZ:
                    parts.append(use)
                else:
                    parts.append(stream.resample_chunk(use, last=is_last))
                read += len(block)
            frames = sound.frames
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(file, error) from error
    if read == 0:
        raise ValueError(f"{file}: holds no samples; replace or remove the file")
    if read < frames:
        raise ValueError(f"{file}: ends after {read} of {frames} samples; it is cut, get it again")
    return np.concatenate(parts)


def _undecodable(file: str | PathLike[str], error: Exception) -> ValueError:
    # Its own words repeat the path, which may be long.
    why = getattr(error, "error_string", error)
    return ValueError(f"{file}: cannot be decoded ({why}); give a WAV, FLAC, AIFF, OGG or MP3 file")


def _mean(block: np.ndarray) -> np.ndarray:
    """Mean over the channels of (N, channels), a new array; numpy's own is slow on short rows."""
    total = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        total += block[:, channel]
    return np.asarray(total / np.float32(block.shape[1]) if block.shape[1] > 1 else total)


def _plausible_rate(file: str | PathLike[str], rate_hz: int, only_hz: int | None) -> int:
    """Refuse a rate that the header cannot mean."""
    if only_hz is not None and rate_hz != only_hz:
        raise ValueError(
            f"{file}: its header says {rate_hz} Hz, all files of this source have {only_hz} Hz; "
            f"get it again"
        )
    low, high = PLAUSIBLE_HZ
    if not low <= rate_hz <= high:
        raise ValueError(
            f"{file}: its header says {rate_hz} Hz, must be {low} to {high}; mend or export it anew"
        )
    return rate_hz


def _refuse_cut(file: str | PathLike[str], info: str) -> None:
    """Refuse a WAV or AIFF that holds less than its header says, which libsndfile keeps to itself.

    Writers that cannot seek leave sizes of 0 or all ones: nothing is missing there.
    """
    for name, said, held in re.findall(r"^ *(data|SSND) *: (\d+) \(should be (\d+)\)", info, re.M):
        if int(held) < int(said) < OPEN_END_BYTES:
            raise ValueError(
                f"{file}: holds {held} of the {said} bytes that its chunk {name!r} says; it is "
                f"cut, get it again"
            )


def _refuse_cut_ogg(file: Path) -> None:
    """Refuse an Ogg whose last page is not marked as the last: libsndfile plays what there is."""
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - OGG_PAGE_BYTES, 0))
        tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or not tail[page + 5 : page + 6] or not tail[page + 5] & 4:
        raise ValueError(f"{file}: its end is missing; it is cut, get it again")


def mono(audio: np.ndarray) -> np.ndarray:
    """Mean of the channels: (channels, N) or (N,) -> float32 (N,)."""
    return np.asarray(audio if audio.ndim == 1 else audio.mean(axis=0), dtype=np.float32)


def resample(audio: np.ndarray, from_hz: int, to_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Change the rate of a mono signal with soxr HQ."""
    if from_hz == to_hz:
        return audio
    return np.asarray(soxr.resample(audio, from_hz, to_hz, quality=QUALITY), dtype=np.float32)


def load_mono(file: str | PathLike[str] | bytes) -> np.ndarray:
    """Decode, mix down and resample a whole file to float32 (N,) at `SAMPLE_RATE_HZ`.

    Of a file on disk nothing but the result lies in memory whole; see `blocks_mono` for errors.
    """
    if isinstance(file, bytes):
        audio, rate_hz = read_audio(file)
        return resample(mono(audio), rate_hz)
    return np.concatenate(list(blocks_mono(file)))


def length_s(file: str | PathLike[str]) -> float:
    """Length of a file, as its header says."""
    try:
        return float(soundfile.info(file).duration)
    except soundfile.LibsndfileError as error:
        raise _undecodable(file, error) from error


def blocks_mono(file: str | PathLike[str], *, block_s: float = 60.0) -> Iterator[np.ndarray]:
    """Decode, mix down and resample a file block by block: a long one takes no more memory.

    Parameters
    ----------
    file : path
        Any format that libsndfile reads.
    block_s : float
        How much is decoded at a time.

    Yields
    ------
    float32 array [shape=(N,)]
        At `SAMPLE_RATE_HZ`; together what `load_mono` gives, but for rounding.

    Raises
    ------
    ValueError
        The file cannot be decoded, is empty, of a rate that cannot be, ends before its header says,
        or holds samples that are no numbers.
    """
    done = 0
    try:
        with soundfile.SoundFile(file) as sound:
            rate_hz = _plausible_rate(file, int(sound.samplerate), None)
            frames = int(sound.frames)
            _refuse_cut(file, sound.extra_info)
            if sound.format == "OGG":
                _refuse_cut_ogg(Path(file))
            stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", quality=QUALITY)
            at_once = max(1, min(round(block_s * rate_hz), BLOCK_SAMPLES // sound.channels))
            while len(block := sound.read(at_once, "float32", always_2d=True)):
                done += len(block)
                if not np.isfinite(block).all():
                    raise ValueError(f"{file}: holds samples that are no numbers; export it again")
                heard = mono(block.T)
                last = done >= frames
                yield heard if rate_hz == SAMPLE_RATE_HZ else stream.resample_chunk(heard, last)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(file, error) from error
    if done == 0:
        raise ValueError(f"{file}: holds no samples; replace or remove the file")
    if done != frames:
        raise ValueError(f"{file}: ends after {done} of {frames} samples; it is cut, get it again")


def encode(audio: np.ndarray, *, container: str = "FLAC") -> bytes:
    """Encode mono float audio in [-1, 1] as 16-bit FLAC or WAV; one input always gives one output.

    Raises
    ------
    ValueError
        A sample is not finite or beyond full scale: libsndfile would clip it without a word.
    """
    peak = float(np.max(np.abs(audio), initial=0.0))
    if not peak <= 1.0:  # also true for NaN
        raise ValueError(f"encode: peak {peak:g} is beyond full scale (1.0); scale the audio first")
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format=container, subtype="PCM_16")
    return buffer.getvalue()


def levels_db(audio: np.ndarray) -> np.ndarray:
    """Root-mean-square level over each `LEVEL_HOP_S` in dB of full scale, (ceil(N / hop),)."""
    hop = round(LEVEL_HOP_S * SAMPLE_RATE_HZ)
    padded = np.pad(audio.astype(np.float64), (0, -len(audio) % hop)).reshape(-1, hop)
    power = np.mean(padded**2, axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10))), dtype=np.float32)
