"""`phalar withdraw`: leave a track out from now on, and name the models that learned from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phalar.cli.options import Json, print_json
from phalar.params import Paths


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(withdraw)


def withdraw(
    track: Annotated[str, typer.Argument(help="SOURCE/TRACK, as `phalar lineage` names it.")],
    reason: Annotated[str, typer.Option(help="Why: it is kept with the track.")],
    as_json: Json = False,
) -> None:
    """Exclude a track from the next render, and mark the models that must be trained again."""
    from phalar.lineage import withdrawal

    done = withdrawal.withdraw(track, reason, Paths(Path("data")))
    if as_json:
        print_json(asdict(done))
        return
    again = "is withdrawn" if done.new else "was withdrawn already"
    typer.echo(f"{track} {again}; commit withdrawn.yaml, and `make repro` renders without it")
    for effect in done.models:
        typer.echo(f"{effect.model}: {effect.verdict} ({effect.pairs} {effect.split} pairs)")
    if not done.models:
        typer.echo("No registered model saw it.")
    if done.siblings:
        typer.echo(f"Other tracks of the same song: {', '.join(done.siblings)}")
    for line in done.unknown:
        typer.echo(f"cannot be searched: {line}")
