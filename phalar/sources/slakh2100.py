"""Source `slakh2100`: Slakh2100-redux at 16 kHz, songs of Lakh played by professional samplers."""

from __future__ import annotations

from pathlib import Path

import yaml

from phalar.params import DownloadWhole, PrepareRecorded
from phalar.sources import Archive, Entry, published, recorded
from phalar.sources.recorded import Part, Recording

LICENCE = "CC-BY-4.0"
CREDITS = (
    "E. Manilow, G. Wichern, P. Seetharaman, J. Le Roux: Cutting music source separation some "
    "Slakh, WASPAA 2019, http://www.slakh.com"
)

ARCHIVE = Archive(
    name="slakh2100_redux_16k.tar.gz",
    url="https://zenodo.org/records/7708270/files/slakh2100_redux_16k.tar.gz",
    into="redux",
    wanted=r".*/Track\d+/(metadata\.yaml|stems/[^/]+\.(wav|flac))",
    size_bytes=48_689_473_348,
    md5="66a2301ed7b4d5f4f6d3383474e546c6",
)
RATE_HZ = 16_000

SPLITS = {"train": "train", "validation": "valid", "test": "test"}

FAMILIES = {
    "Bass": "bass",
    "Brass": "brass",
    "Chromatic Percussion": "mallets",
    "Drums": "drums",
    "Ethnic": "plucked",
    "Guitar": "guitar",
    "Organ": "organ",
    "Percussive": "percussion",
    "Piano": "piano",
    "Pipe": "pipes",
    "Reed": "reeds",
    "Sound Effects": "effects",
    "Sound effects": "effects",
    "Strings": "strings",
    "Strings (continued)": "strings",
    "Synth Lead": "lead",
    "Synth Pad": "pad",
}

songs, make, obtain = recorded.songs, recorded.make, published.obtain
hear, findings = recorded.hear, recorded.findings


def pieces(params: DownloadWhole, root: Path) -> list[Archive]:
    """The one archive there is."""
    return [ARCHIVE]


def find(folder: Path, params: PrepareRecorded) -> list[Entry]:
    """List the tracks by split and number."""
    found = []
    for split in SPLITS:
        for track in sorted(folder.glob(f"{ARCHIVE.into}/*/{split}/Track*")):
            files = sorted(p.relative_to(folder).as_posix() for p in track.rglob("*.*"))
            found.append(Entry(track.name, tuple(files)))
    return found


def scan(folder: Path, files: tuple[str, ...]) -> Recording:
    """Read which stems there are and whose song it is.

    Raises
    ------
    ValueError
        The metadata are missing, damaged, or name a stem that is not there.
    """
    split = Path(files[0]).parts[2]
    track = "/".join(Path(files[0]).parts[:4])
    try:
        known = yaml.safe_load((folder / track / "metadata.yaml").read_text())
        said = {stem: entry for stem, entry in known["stems"].items() if _is_rendered(entry)}
        parts: list[Part] = []
        for stem, entry in said.items():
            audio = [f for f in files if Path(f).stem == stem and Path(f).parent.name == "stems"]
            if not audio:
                raise ValueError(f"{track}: metadata.yaml names {stem}, no such file; get it again")
            instrument = FAMILIES.get(entry["inst_class"], "other")
            label = f"{stem}-{entry['inst_class'].lower()}"
            (stem_name,) = recorded.stem_names([label])
            parts.append(Part(f"{len(parts):02d}{stem_name[2:]}", instrument, tuple(audio)))
        return Recording(
            song=str(known["UUID"]), parts=tuple(parts), split=SPLITS[split], rate_hz=RATE_HZ
        )
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{track}/metadata.yaml: missing or damaged ({e!r}); get it again") from e


def _is_rendered(entry: dict[str, object]) -> bool:
    return bool(entry.get("audio_rendered", True))
