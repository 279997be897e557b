"""`phalar score`: how well two sound files fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import phalar
from phalar.cli.options import TRAINED, Json, Model, Start, load, need_files, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(
    a: Annotated[Path, typer.Argument(help="A sound file.")],
    b: Annotated[Path, typer.Argument(help="Another, that starts at the same moment.")],
    model: Model = TRAINED,
    start: Start = 0.0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.5, help="Length of the moment heard; by default all, in windows."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score how well two parts of music fit when both start together; higher is better.

    Beside the score stands how many percent of pairs that do not belong together score lower.
    """
    need_files(a, b)
    loaded = load(model)
    value = phalar.score(loaded, a, b, start_s=start, seconds=seconds)
    percent = phalar.percentile(loaded, value)
    if as_json:
        record = {"score": value, "percentile": percent, "a": str(a), "b": str(b), "model": model}
        print_json(record)
    else:
        typer.echo(f"{value:.4f}" + ("" if percent is None else f"  {percent:.1f} of 100"))
