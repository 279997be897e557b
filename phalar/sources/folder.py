"""Source `folder`: multitracks of your own, one sub-folder a track, one sound file a stem."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from phalar.params import DownloadOwn, PrepareRecorded
from phalar.sources import INSTRUMENTS, Entry, Tree, published, recorded, slug
from phalar.sources.recorded import Part, Recording

LICENCE = "unknown; say it in tracks.yaml"
CREDITS = "your own folder"

ABOUT = "tracks.yaml"
"""Optional file beside the tracks: what is known of each."""

INTO = "tracks"
WANTED = r"(?!.*(^|/)\.).+/.+|tracks\.yaml"
"""Everything within a track but what is hidden."""

# fmt: off
SOUND = frozenset({
    ".wav", ".wave", ".aif", ".aiff", ".aifc", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".w64",
    ".rf64", ".caf", ".au", ".snd", ".m4a", ".aac", ".mp4", ".wma", ".alac", ".ape", ".wv",
})
# fmt: on
"""Files with other endings are no stems; not all of these can be read, which is told then."""


class About(BaseModel):
    """What `tracks.yaml` can say of a track; none of it must be said."""

    model_config = ConfigDict(extra="forbid")

    artist: str | None = None
    """Tracks of one artist come into one split."""
    title: str | None = None
    song: str | None = None
    """Versions of one song share it."""
    split: Literal["train", "valid", "test"] | None = None
    licence: str | None = None
    instruments: dict[str, Literal[INSTRUMENTS]] = {}  # type: ignore[valid-type]
    """Family of a stem by its file name without ending; guessed from the name where not given."""


songs, make, obtain = recorded.songs, recorded.make, published.obtain
hear, findings = recorded.hear, recorded.findings


def pieces(params: DownloadOwn, root: Path) -> list[Tree]:
    """The folder, whose files are linked.

    Raises
    ------
    OSError
        It is not there, or a sound file lies beside the tracks.
    """
    path = root / params.path
    if not path.is_dir():
        raise OSError(f"download.folder.path: {path} is no folder; name that of your tracks")
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix.lower() in SOUND:
            raise OSError(f"{file} lies beside the tracks; put it into the folder of its track")
    return [Tree(path, INTO, WANTED)]


def find(folder: Path, params: PrepareRecorded) -> list[Entry]:
    """List the sub-folders by name.

    Raises
    ------
    ValueError
        `tracks.yaml` is damaged, or names a track that is not there.
    """
    tracks = sorted(path for path in (folder / INTO).iterdir() if path.is_dir())
    unknown = _about(folder).keys() - {path.name for path in tracks}
    if unknown:
        raise ValueError(f"{ABOUT}: no track {min(unknown)!r} in the folder; mend the name")
    return [
        Entry(slug(path.name), tuple(p.relative_to(folder).as_posix() for p in _files(path)))
        for path in tracks
    ]


def _files(track: Path) -> list[Path]:
    return sorted(path for path in track.rglob("*") if not path.is_dir())


def _about(folder: Path) -> dict[str, About]:
    """Read what is known of the tracks."""
    path = folder / INTO / ABOUT
    if not path.exists():
        return {}
    try:
        return {str(k): About(**(v or {})) for k, v in yaml.safe_load(path.read_text()).items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{ABOUT}: {where} = {first['input']!r}: {first['msg']}") from None
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{ABOUT}: not a table of tracks ({error}); see the README") from None


def scan(folder: Path, files: tuple[str, ...]) -> Recording:
    """List the sound files of a track, with what `tracks.yaml` says of it.

    Raises
    ------
    ValueError
        There is no sound file.
    """
    name = Path(files[0]).parts[1]
    about = _about(folder).get(name, About())
    stems = [path for path in map(Path, files) if path.suffix.lower() in SOUND]
    if not stems:
        raise ValueError(f"{name}: {len(files)} files, none with sound; remove or complete it")
    parts = [
        Part(unique, about.instruments.get(path.stem) or recorded.family(path.stem), (str(path),))
        for path, unique in zip(
            stems, recorded.stem_names([path.stem for path in stems]), strict=True
        )
    ]
    return Recording(
        song=about.song or name,
        parts=tuple(parts),
        artist=about.artist,
        title=about.title or name,
        split=about.split,
        licence=about.licence,
    )
