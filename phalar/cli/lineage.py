"""`phalar lineage`: what a model was made from, drawn or verified."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from phalar.cli.options import FAILED, Json, print_json
from phalar.params import Paths

if TYPE_CHECKING:
    from phalar.lineage.trace import Wanted

DATA = Path("data")
MODEL = "data/register/lineage.json"
WIDE = 1000
"""Columns of a tree that goes into a file or to another command."""
SHOWN = 5
"""Shards of a track that are named in a line."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lineage)


def lineage(
    model: Annotated[
        str,
        typer.Argument(
            help="A registered model (phalar@champion, phalar/3), an MLflow run, a "
            "model.safetensors, or a lineage.json."
        ),
    ] = MODEL,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every link against what is there.")
    ] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid drawing.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Write a drawing to this file.")] = None,
    track: Annotated[str | None, typer.Option(help="Who saw this: SOURCE/TRACK.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Who saw this: SHA-256 of a source file, 8 digits or more.")
    ] = None,
    artist: Annotated[str | None, typer.Option(help="Who saw this: part of the name.")] = None,
    licence: Annotated[str | None, typer.Option(help="Who saw this: part of the words.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a model was made from, down to every source file; or who saw a track of music."""
    if any(text is not None for text in (track, file, artist, licence)):
        from phalar.lineage.trace import Wanted

        _show_who_saw(Wanted(track, file, artist, licence), as_json=as_json)
        return
    from phalar.lineage import draw, record

    found = record.read(model)
    if svg is not None:
        aside = svg.with_name(svg.name + ".part")
        aside.write_text(draw.svg(found), encoding="utf-8")
        aside.replace(svg)
    if verify:
        _verify(found, as_json=as_json)
    elif as_json:
        print_json(found)
    elif mermaid:
        typer.echo(draw.mermaid(found), nl=False)
    elif svg is None:
        console = Console(highlight=False)
        if not console.is_terminal:  # a hash in two lines cannot be searched for
            console.width = WIDE
        console.print(draw.tree(found))


def _verify(found: dict[str, Any], *, as_json: bool) -> None:
    """Print what each link is; exit code 1 where one is wrong."""
    from phalar.lineage import check
    from phalar.lineage.verify import verify

    checks = verify(found, Paths(DATA))
    counts = Counter(each.state for each in checks)
    if as_json:
        print_json({"counts": counts, "checks": [asdict(each) for each in checks]})
    else:
        styles = {check.RIGHT: "green", check.WRONG: "bold red", check.UNKNOWN: "yellow"}
        console = Console(highlight=False)
        for each in checks:
            console.print(f"{each.state:17} ", style=styles[each.state], end="")
            console.print(f"{each.link}: {each.what}", soft_wrap=True, markup=False)
        console.print(", ".join(f"{counts[state]} {state}" for state in styles))
    if counts[check.WRONG]:
        raise typer.Exit(FAILED)


def _show_who_saw(wanted: Wanted, *, as_json: bool) -> None:
    """Print each model version and each shard that holds what is wanted, and in which split."""
    from phalar.lineage import trace

    found = trace.find(wanted, Paths(DATA))
    if as_json:
        print_json(asdict(found))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for place in found.places:
        run = f" (MLflow run {place.run})" if place.run else ""
        console.print(f"{place.name}{run}")
        for seen in place.sightings:
            shards = ", ".join(list(seen.shards)[:SHOWN])
            more = ", ... (all: --json)" if len(seen.shards) > SHOWN else ""
            console.print(
                f"  {seen.source}/{seen.track}: {seen.split}, {seen.pairs} pairs in "
                f"{len(seen.shards)} shards: {shards}{more}"
            )
    for run in found.runs:
        console.print(f"MLflow run {run}, whose model is not registered")
    if not found.places:
        console.print(f"Not seen by any of {found.searched} model versions.")
    for line in found.unknown:
        console.print(f"cannot be searched: {line}", style="yellow")
