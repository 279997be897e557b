"""Source `musdb18hq`: MUSDB18-HQ, 150 songs of all kinds in four stems."""

from __future__ import annotations

from pathlib import Path

from phalar.params import DownloadWhole, PrepareRecorded
from phalar.sources import Archive, Entry, published, recorded, slug
from phalar.sources.recorded import Part, Recording

LICENCE = "for education and research only; most songs CC-BY-NC-SA, see the data set's page"
CREDITS = (
    "Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner: MUSDB18-HQ, 2019, "
    "https://doi.org/10.5281/zenodo.3338373"
)

ARCHIVE = Archive(
    name="musdb18hq.zip",
    url="https://zenodo.org/records/3338373/files/musdb18hq.zip",
    into="musdb18hq",
    wanted=r"(.*/)?(train|test)/[^/]+/(bass|drums|other|vocals)\.wav",
    sha256="baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d",
)
RATE_HZ = 44_100

STEMS = {"bass": "bass", "drums": "drums", "other": "other", "vocals": "voice"}

# The songs that the publishers' own tools hold back from the training part.
VALID = {
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
}

songs, make, obtain = recorded.songs, recorded.make, published.obtain
hear, findings = recorded.hear, recorded.findings


def pieces(params: DownloadWhole, root: Path) -> list[Archive]:
    """The one archive there is."""
    return [ARCHIVE]


def find(folder: Path, params: PrepareRecorded) -> list[Entry]:
    """List the songs by name."""
    tracks = {p.parent for p in folder.glob(f"{ARCHIVE.into}/**/*.wav")}
    return [
        Entry(
            slug(path.name), tuple(sorted(p.relative_to(folder).as_posix() for p in path.iterdir()))
        )
        for path in sorted(tracks)
    ]


def scan(folder: Path, files: tuple[str, ...]) -> Recording:
    """Read artist and title off the name of the folder, the split off the one above.

    Raises
    ------
    ValueError
        A stem is missing.
    """
    named = {Path(name).stem: name for name in files}
    missing = STEMS.keys() - named.keys()
    part, song = Path(files[0]).parts[-3:-1]
    if missing:
        raise ValueError(f"{part}/{song}: no {', '.join(sorted(missing))}.wav; get it again")
    artist, _, title = song.partition(" - ")
    return Recording(
        song=song,
        parts=tuple(
            Part(name, STEMS[stem], (named[stem],))
            for stem, name in zip(STEMS, recorded.stem_names(list(STEMS)), strict=True)
        ),
        artist=artist,
        title=title or None,
        split="valid" if song in VALID else part,
        rate_hz=RATE_HZ,
    )
