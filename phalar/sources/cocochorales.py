"""Source `cocochorales`: CocoChorales, chorales of a network played by models of instruments."""

from __future__ import annotations

import re
from pathlib import Path

from phalar.params import DownloadCocochorales, PrepareRecorded
from phalar.sources import Archive, Entry, published, recorded
from phalar.sources.recorded import Part, Recording

LICENCE = "CC-BY-4.0"
CREDITS = (
    "Y. Wu, J. Gardner, E. Manilow, I. Simon, C. Hawthorne, J. Engel: The Chamber Ensemble "
    "Generator, 2022, https://magenta.tensorflow.org/datasets/cocochorales"
)

URL = (
    "https://storage.googleapis.com/magentadata/datasets/cocochorales/cocochorales_full_v1_zipped/"
    "main_dataset/"
)
RATE_HZ = 16_000

# The publisher's sums of the archives that the paper uses; others are held to their first download.
MD5 = {
    "train/1": "999ba8284b0646a6c7f3ef357e15fd59",
    "train/2": "f1b6ae484940d66ec006c0599d8b0f48",
    "train/3": "b2237240c49d3537872d35d98199fdc6",
    "train/25": "e540dc37fcb47f75995544df3720af3f",
    "train/26": "7490eb20468f421313bab7882f59c9cf",
    "train/27": "200eb27e786d27d04347129d10a7731b",
    "train/49": "358817b12ee126e697f14ef6805cdc48",
    "train/50": "96e81212eeb8b65619103dd16094a08f",
    "train/51": "32799d360b9b9764b511d399327509e0",
    "train/73": "0fa937613c947d0cc18d2d4682504fa0",
    "train/74": "e5c50a10b0b2af5ee26867c108a94a92",
    "train/75": "f78dfe2f212e4991a78be7e8e4e98fc5",
    "test/1": "2c9e617b9f3ec622e0da35734036af49",
    "test/4": "461fc00182c5e312ac379d97df4bceb6",
    "test/7": "f808fc2502059e9a994cea85ccd4d3a0",
    "test/10": "afebac996cd3d643b7c99d575a3ad048",
    "valid/1": "697766f8e53ffc9f64708b8bf4acedb1",
    "valid/4": "4edd6803d082dc090f08823cc003cc94",
    "valid/7": "502128334a38e682ac0a06682207d13b",
    "valid/10": "ded860cabdf005eafde1095ebab7787e",
}

songs, make, obtain = recorded.songs, recorded.make, published.obtain
hear, findings = recorded.hear, recorded.findings


def pieces(params: DownloadCocochorales, root: Path) -> list[Archive]:
    """The chosen archives; the mixes and scores in them stay packed."""
    return [
        Archive(
            name=f"{name}.tar.bz2",
            url=f"{URL}{name}.tar.bz2",
            into=name,
            wanted=r".*/stems_audio/[^/]+\.wav",
            md5=MD5.get(name),
        )
        for split, numbers in params.model_dump().items()
        for name in (f"{split}/{number}" for number in dict.fromkeys(numbers))
    ]


def find(folder: Path, params: PrepareRecorded) -> list[Entry]:
    """List the tracks by split and name; the name says the ensemble, too."""
    found = []
    for split in ("train", "valid", "test"):
        stems = sorted((folder / split).glob("**/stems_audio"), key=lambda path: path.parent.name)
        for path in stems:
            files = sorted(p.relative_to(folder).as_posix() for p in path.iterdir())
            found.append(Entry(path.parent.name, tuple(files)))
    return found


def scan(folder: Path, files: tuple[str, ...]) -> Recording:
    """Read the parts off the names of their files, such as `2_viola.wav`.

    Raises
    ------
    ValueError
        A file has another name.
    """
    parts = []
    for name in files:
        path = Path(name)
        found = re.fullmatch(r"(\d+)_(\w+)", path.stem)
        if not found:
            raise ValueError(f"{name}: not named as <number>_<instrument>.wav; get it again")
        instrument = recorded.family(found[2].replace("_", " "))
        parts.append(Part(f"{int(found[1]):02d}-{found[2]}", instrument, (name,)))
    return Recording(
        song=Path(files[0]).parts[-3],
        parts=tuple(parts),
        split=Path(files[0]).parts[0],
        rate_hz=RATE_HZ,
    )
