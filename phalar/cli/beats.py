"""`phalar beats`: beat tracking by a model that was never taught beats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import (
    PARAMS,
    TRAINED,
    Json,
    Model,
    ProjectParams,
    load,
    need_files,
    print_json,
    replace,
)

NAMES = ("model", "flux", "fixed")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(beats)


def beats(
    model: Model = TRAINED,
    songs: Annotated[
        int | None, typer.Option(min=1, help="Held-out songs of each source, if not as params say.")
    ] = None,
    heard: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="Of each, from the start, if not as params say."),
    ] = None,
    gtzan: Annotated[
        Path | None, typer.Option(help="A folder with GTZAN and its *.beats, all of it.")
    ] = None,
    params: ProjectParams = PARAMS,
    as_json: Json = False,
) -> None:
    """Track beats zero-shot: F1, CMLt, AMLt beside spectral flux and a fixed tempo."""
    from phalar import params as parameters
    from phalar.evaluate import probes

    need_files(params)
    project = parameters.load(params)
    settings = replace(
        project.evaluate.beats,
        "evaluate.beats",
        params,
        songs=songs,
        seconds=heard,
        gtzan=gtzan,
    )
    known = probes.held_out(project, project.paths)
    asked = probes.for_beats(known, settings, params.parent)
    found = probes.judge_beats(asked, load(model), settings, project.evaluate)
    if as_json:
        print_json(found)
        return
    table = Table("source", "by", "F1", "95 %", "CMLt", "AMLt", "pieces")
    for source, judged in found.items():
        for name in NAMES:
            row = judged[name]
            figures = (f"{row[key]:.3f}" for key in ("cmlt", "amlt"))
            interval = f"{row['low']:.2f}..{row['high']:.2f}"
            table.add_row(
                source, name, f"{row['f1']:.3f}", interval, *figures, str(judged["pieces"])
            )
    console = Console(highlight=False)
    console.print(table)
    for line in probes.lines({"beats": asked.missing}):
        console.print(line)
