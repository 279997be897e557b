"""`phalar search`: what of a library fits a moment of a mix."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import Json, WrongUseError, load_of_index, need_files, print_json, printable

if TYPE_CHECKING:
    from phalar.search import Index, Wanted

logger = logging.getLogger(__name__)

WIDEST = 1 << 16
"""A table that no terminal shows is as wide as its longest path."""

Words = Annotated[
    list[str] | None,
    typer.Option(help="Only this family, as drums or vocals, or whole word of the path."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    files: Annotated[list[Path], typer.Argument(help="Sound files that start together; summed.")],
    index: Annotated[Path, typer.Option(help="Folder of the library, or of its index.")],
    top: Annotated[int, typer.Option(min=1, help="How many to find.")] = 10,
    start: Annotated[
        float, typer.Option("--from", min=0, help="Start of the moment, seconds.")
    ] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Its length; by default a window of the index.")
    ] = None,
    instrument: Words = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not this family, or whole word of the path.")
    ] = None,
    transpose: Annotated[str, typer.Option(help="Try candidates transposed, such as -6..6.")] = "0",
    stretch: Annotated[str, typer.Option(help="Try tempi, such as 0.9..1.1 times.")] = "1",
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine",
            help="Find starts to milliseconds, a second or two, or those of the index's windows.",
        ),
    ] = True,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exactly, also where the index is searched by codes.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Copy what is found here, and render it in context.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Where the model of the index is, if it moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what fits: score, percentile among mismatched pairs, and the best start of each file."""
    need_files(*files)
    from phalar.search import Moment, Searcher, Wanted, open_index, rendering
    from phalar.search import change as changing
    from phalar.search.fit import fit
    from phalar.search.moment import read_moment, windows_of
    from phalar.search.record import record

    tried = changing.changes(_whole(transpose), _range("--stretch", stretch))
    try:
        opened = open_index(index)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    for word, hint in _unknown(instrument or [], opened):
        raise WrongUseError(f"--instrument {word}: {hint}")
    for word, hint in _unknown(exclude or [], opened):
        logger.warning("--exclude %s: %s", word, hint)
    mix = read_moment(files, Moment(start, seconds), opened.facts.grid)
    loaded = load_of_index(model, opened)
    searcher = Searcher(opened, exact=exact)
    wanted = Wanted(
        top,
        frozenset(instrument or ()),
        frozenset(exclude or ()),
        frozenset(file.resolve() for file in files),
        _digests(files, opened),
    )
    found = fit(loaded, searcher, mix, wanted, tried, refine=refine)
    records = [record(loaded, each) | {"path": str(opened.path_of(each.entry))} for each in found]
    if not records:
        why = _why_none(opened, wanted, len(windows_of(mix.sound, opened.facts.grid)))
        typer.echo(why, err=as_json)
    if as_json:
        print_json(records)
    elif records:
        _print_table(records, changed=len(tried) > 1)
    if export is not None:
        rendering.export(searcher, found, mix.sound, export)


def _unknown(words: Iterable[str], index: Index) -> list[tuple[str, str]]:
    """List words that are neither of instruments nor of any path, each with a hint."""
    from phalar.search import names

    heard = [entry for entry in index.entries if entry.windows]
    paths, families = [e.path for e in heard], [e.instrument for e in heard]
    unknown = []
    for word in words:
        meant = names.meant(word)
        if heard and meant != [word] and not names.telling(word, paths, families):
            other = f"; did you mean {meant[0]}?" if meant else ""
            hint = f"no family of instruments, and no word of the path of any file{other}"
            unknown.append((word, hint))
    return unknown


def _why_none(index: Index, wanted: Wanted, windows: int) -> str:
    """Say why nothing was found for a moment of so many windows."""
    heard = [entry for entry in index.entries if entry.windows]
    if not heard:
        return f"{index.folder}: holds no file that is heard; `phalar index info` says why"
    there = [entry for entry in heard if entry.sha256 not in wanted.not_sha256]
    if not there:
        return "the library holds nothing but what is searched with"
    of_them = replace(wanted, exclude=frozenset()).admits(there)
    asked = [entry for entry, is_asked in zip(there, of_them, strict=True) if is_asked]
    if not asked:
        known = ", ".join(sorted({entry.instrument for entry in there if entry.instrument}))
        words = ", ".join(sorted(wanted.instruments))
        return f"of --instrument {words} there is no file; names and folders tell of: {known}"
    left = [entry for entry, is_left in zip(asked, wanted.admits(asked), strict=True) if is_left]
    if not left:
        return f"--exclude leaves none of the {len(asked)} files in question; loosen it"
    grid = index.facts.grid
    if all(e.windows < windows and not grid.is_loop(e.seconds) for e in left):
        return f"none of the {len(left)} files in question is as long as the moment; shorten it"
    if not any(index.path_of(entry).is_file() for entry in left):
        return "what fits cannot be read any more; run `phalar index update`"
    return f"none of the {len(left)} files in question is heard for so long; shorten the moment"


def _digests(files: list[Path], index: Index) -> frozenset[str]:
    """Give the digests of those files whose content may be in an index: it has one as large."""
    from phalar.search.hear import file_sha256

    sizes = {entry.bytes for entry in index.entries}
    return frozenset(file_sha256(file) for file in files if file.stat().st_size in sizes)


def _whole(text: str) -> tuple[int, int]:
    low, high = _range("--transpose", text)
    if low != int(low) or high != int(high):
        raise WrongUseError(f"--transpose {text}: must be whole semitones, such as -6..6")
    return int(low), int(high)


def _range(option: str, text: str) -> tuple[float, float]:
    """Read `-6..6`, or a single number: that alone, beside what is unchanged."""
    number = r"[-+]?\d+(?:\.\d+)?"
    match = re.fullmatch(rf"({number})(?:\.\.({number}))?", text)
    if not match:
        raise WrongUseError(f"{option} {text}: must be a number, or two with .. between")
    return float(match[1]), float(match[2] or match[1])


def _print_table(records: list[dict[str, Any]], *, changed: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("", "score", "of 100", "from s"):
        table.add_column(name, justify="right")
    for name in ("instrument", "bpm", "key", *(["change"] if changed else []), "file"):
        table.add_column(name, overflow="fold")
    for place, record in enumerate(records, start=1):
        percent = record["percentile"]
        told = [record["instrument"] or "", _told(record, "tempo"), _told(record, "key")]
        table.add_row(
            str(place),
            f"{record['score']:.3f}",
            "" if percent is None else f"{percent:.1f}",
            f"{record['start_s']:.2f}",
            *told,
            *([_change(record)] if changed else []),
            printable(record["path"]),
        )
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.file.isatty():
        console.width = WIDEST
    console.print(table)


def _told(record: dict[str, Any], what: str) -> str:
    """Say tempo or key; what was only heard, and not said, with a tilde."""
    value = record["tempo_bpm" if what == "tempo" else what]
    if value is None:
        return ""
    if record[f"{what}_from"] == "sound":
        return f"~{value:.0f}" if what == "tempo" else f"~{value}"
    return f"{value:g}" if what == "tempo" else str(value)


def _change(record: dict[str, Any]) -> str:
    words = []
    if record["transpose_st"]:
        words.append(f"{record['transpose_st']:+d} st")
    if record["stretch"] != 1:
        words.append(f"x {record['stretch']:g}")
    return ", ".join(words)
