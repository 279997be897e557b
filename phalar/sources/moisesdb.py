"""Source `moisesdb`: MoisesDB, 240 songs in many stems, which its owner gives out on request."""

from __future__ import annotations

import json
import random
from pathlib import Path

from phalar.params import DownloadOwn, PrepareMoisesdb
from phalar.sources import Archive, Entry, Tree, published, recorded
from phalar.sources.recorded import Part, Recording

LICENCE = "CC-BY-NC-SA-4.0"
CREDITS = (
    "I. Pereira, F. Araújo, F. Korzeniowski, R. Vogl: MoisesDB, ISMIR 2023, "
    "https://music.ai/research"
)

RATE_HZ = 44_100
WANTED = r"(.*/)?[0-9A-Za-z-]+/(data\.json|[^/]+/[^/]+\.wav)"

FAMILIES = {
    "bass": "bass",
    "bowed_strings": "strings",
    "drums": "drums",
    "guitar": "guitar",
    "other_plucked": "plucked",
    "percussion": "percussion",
    "piano": "piano",
    "vocals": "voice",
    "wind": "reeds",
}

songs, make, obtain = recorded.songs, recorded.make, published.obtain
hear, findings = recorded.hear, recorded.findings


def pieces(params: DownloadOwn, root: Path) -> list[Archive | Tree]:
    """What the user has put into place: the archive, or the folder that it was unpacked to.

    Raises
    ------
    OSError
        Nothing is there; the message says where to get it.
    """
    path = root / params.path
    if path.is_dir():
        return [Tree(path, "moisesdb", WANTED)]
    if path.is_file():
        return [Archive(path.name, path.absolute().as_uri(), "moisesdb", WANTED, path=path)]
    raise OSError(
        f"download.moisesdb.path: nothing is at {path}; ask for MoisesDB at "
        f"https://music.ai/research, and put its archive or unpacked folder there"
    )


def find(folder: Path, params: PrepareMoisesdb) -> list[Entry]:
    """List the tracks by their number.

    The lists of the paper depend on all names together, so they are drawn here.
    """
    tracks = sorted(
        {path.parent for path in folder.glob("moisesdb/**/data.json")}
        | {path.parent.parent for path in folder.glob("moisesdb/**/*.wav")},
        key=lambda path: path.name,
    )
    order = list(range(len(tracks)))
    random.Random(42).shuffle(order)
    first, last = int(0.8 * len(order)), int(0.8 * len(order)) + int(0.1 * len(order))
    places = dict.fromkeys(order, "test") | dict.fromkeys(order[:first], "train")
    places |= dict.fromkeys(order[first:last], "valid")
    return [
        Entry(
            path.name,
            tuple(sorted(p.relative_to(folder).as_posix() for p in path.rglob("*.*"))),
            split=places[number] if params.split == "paper" else None,
        )
        for number, path in enumerate(tracks)
    ]


def scan(folder: Path, files: tuple[str, ...]) -> Recording:
    """Read who plays what; the recordings of one stem are summed.

    Raises
    ------
    ValueError
        The metadata are missing or damaged, or a recording that they name is missing.
    """
    by_name = {Path(name).name: name for name in files}
    try:
        known = json.loads((folder / by_name["data.json"]).read_text())
        names = [stem["stemName"] for stem in known["stems"]]
        recordings = [
            tuple(by_name[f"{track['id']}.{track['extension']}"] for track in stem["tracks"])
            for stem in known["stems"]
        ]
        artist, title = str(known["artist"]), str(known["song"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        track = Path(files[0]).parts[1]
        raise ValueError(
            f"{track}: data.json or what it names is missing or damaged ({error!r}); get it again"
        ) from error
    return Recording(
        song=f"{artist} - {title}",
        parts=tuple(
            Part(unique, FAMILIES.get(name, "other"), paths)
            for name, unique, paths in zip(
                names, recorded.stem_names(names), recordings, strict=True
            )
        ),
        artist=artist,
        title=title,
        rate_hz=RATE_HZ,
    )
