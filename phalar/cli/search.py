"""`phalar search`: what of a library fits a moment of a mix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import Json, WrongUseError, load_of_index, need_files, print_json

if TYPE_CHECKING:
    from phalar.search import Index

Words = Annotated[
    list[str] | None, typer.Option(help="Only this family of instruments, or word of the path.")
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
        list[str] | None, typer.Option(help="Not this family of instruments, or word of the path.")
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
        typer.Option(envvar="PHALAR_MODEL", help="Where the model of the index is, if it moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what fits: score, percentile among mismatched pairs, and the best start of each file."""
    need_files(*files)
    from phalar.search import Moment, Searcher, Wanted, open_index, rendering
    from phalar.search import change as changing
    from phalar.search.fit import fit
    from phalar.search.moment import read_moment
    from phalar.search.record import record

    tried = changing.changes(_whole(transpose), _range("--stretch", stretch))
    try:
        opened = open_index(index)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
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
    if export is not None:
        rendering.export(searcher, found, mix.sound, export)
    records = [record(loaded, each) | {"path": str(opened.path_of(each.entry))} for each in found]
    if as_json:
        print_json(records)
    else:
        _print_table(records, changed=len(tried) > 1)


def _digests(files: list[Path], index: Index) -> frozenset[str]:
    """Give the digests of those files whose content may be in an index: it has one as large."""
    from phalar.search.build import file_sha256

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
    if not records:
        typer.echo("nothing comes into question; loosen --instrument or --exclude")
        return
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
            record["path"],
        )
    Console(highlight=False, markup=False).print(table)


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
