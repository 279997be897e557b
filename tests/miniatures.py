"""Miniatures of the published data sets, in exactly their publishers' layouts."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from phalar import params
from phalar.params import Params

ROOT = Path(__file__).parents[1]

ASKED = {"max_s": 60.0, "shortest_stem": 0.9, "silent_db": -60.0, "duplicate": 0.15}


def sound(seed: object, seconds: float = 1.0, rate_hz: int = 16_000, channels: int = 1):
    """Noise of its own under a slow swell."""
    rng = np.random.default_rng(list(str(seed).encode()))
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    swell = 0.1 * (1.1 + np.sin(2 * np.pi * rng.uniform(1, 4) * time_s))
    return rng.uniform(-1, 1, (len(time_s), channels)) * swell[:, None]


def wav(seed: object, seconds: float = 1.0, rate_hz: int = 16_000, channels: int = 1) -> bytes:
    return encoded(sound(seed, seconds, rate_hz, channels), rate_hz)


def encoded(audio: np.ndarray, rate_hz: int, kind: str = "WAV", subtype: str | None = None):
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def slakh2100(songs: Mapping[str, int]) -> bytes:
    """`slakh2100_redux_16k.tar.gz` with so many tracks of each split."""
    files, number = {}, 0
    for split, count in songs.items():
        for _ in range(count):
            number += 1
            track = f"slakh2100_redux_16k/{split}/Track{number:05d}"
            stems = {
                f"S{n:02d}": {
                    "audio_rendered": n < 3,
                    "inst_class": kind,
                    "is_drum": kind == "Drums",
                    "program_num": 0,
                }
                for n, kind in enumerate(("Bass", "Drums", "Piano", "Guitar"))
            }
            known = {"UUID": f"uuid{number}", "stems": stems, "overall_gain": 0.1}
            files[f"{track}/metadata.yaml"] = yaml.safe_dump(known).encode()
            files[f"{track}/mix.wav"] = wav("mix")
            files[f"{track}/all_src.mid"] = b"MThd"
            for n in range(3):
                files[f"{track}/stems/S{n:02d}.wav"] = wav((track, n))
                files[f"{track}/MIDI/S{n:02d}.mid"] = b"MThd"
    return tar(files, "gz")


def cocochorales(ensembles: Mapping[str, str]) -> bytes:
    """`<split>/<number>.tar.bz2` with the named tracks."""
    files = {}
    for track, instruments in ensembles.items():
        files[f"{track}/metadata.yaml"] = b"ensemble: string\n"
        files[f"{track}/mix.wav"] = wav("mix")
        for n, instrument in enumerate(instruments.split()):
            files[f"{track}/stems_audio/{n}_{instrument}.wav"] = wav((track, n))
            files[f"{track}/stems_midi/{n}_{instrument}.mid"] = b"MThd"
    return tar(files, "bz2")


def musdb18hq(songs: Mapping[str, list[str]]) -> bytes:
    """`musdb18hq.zip` with the named songs of `train` and `test`."""
    files = {
        f"{part}/{title}/{stem}.wav": wav((title, stem), 0.5, 44_100, 2)
        for part, titles in songs.items()
        for title in titles
        for stem in ("bass", "drums", "other", "vocals", "mixture")
    }
    return zipped(files)


def moisesdb(root: Path, songs: list[tuple[str, str]]) -> None:
    """`moisesdb_v0.1/` with a song of each (artist, title); stems differ in length."""
    for number, (artist, title) in enumerate(songs):
        track = root / "moisesdb_v0.1" / str(uuid.UUID(int=number))
        stems = []
        for name, count in (("vocals", 2), ("bass", 1), ("drums", 1)):
            recordings = []
            for n in range(count):
                name_of = str(uuid.UUID(int=1000 * number + 10 * len(stems) + n + 1 << 64))
                path = track / name / f"{name_of}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wav((title, name, n), 0.5 - 0.01 * len(stems), 44_100, 2))
                recordings.append({"id": name_of, "extension": "wav", "trackType": name})
            stems.append({"stemName": name, "id": str(number), "tracks": recordings})
        known = {"artist": artist, "song": title, "genre": "rock", "stems": stems}
        (track / "data.json").write_text(json.dumps(known))


def tar(files: Mapping[str, bytes], packed: str = "gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packed}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def settings(
    root: Path,
    source: str,
    *,
    download: dict[str, Any] | None = None,
    prepare: dict[str, Any] | None = None,
    fetch: dict[str, Any] | None = None,
    bad: float = 1.0,
) -> Params:
    """Parameters of one source alone, with everything below `root`."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = [source]
    raw["download"] = {
        "fetch": raw["download"]["fetch"] | {"timeout_s": 1.0, "tries": 3} | (fetch or {}),
        source: download or {},
    }
    raw["prepare"] = {
        "seed": 1,
        "split": {"salt": 1, "train": 0.4, "valid": 0.3, "test": 0.3},
        "workers": 1,
        "max_bad_fraction": bad,
        "store": None,
        source: ASKED | (prepare or {}),
    }
    raw["render"]["weights"] = {source: 1.0}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    return params.load(root / "params.yaml")
