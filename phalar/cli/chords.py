"""`phalar chords`: how much of the harmony one linear layer reads from a model's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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

NAMES = ("model", "chroma", "shuffled", "majority")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(chords)


def chords(
    model: Model = TRAINED,
    heard: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="Of each recording, if not as params say."),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(min=0.02, help="Seconds from window to window; the paper's 0.02."),
    ] = None,
    window: Annotated[float | None, typer.Option(min=0.5, help="Seconds of a window.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often the probe sees each window.")
    ] = None,
    guitarset: Annotated[
        Path | None, typer.Option(help="A folder with GuitarSet's *.jams and *_mic.wav.")
    ] = None,
    params: ProjectParams = PARAMS,
    as_json: Json = False,
) -> None:
    """Probe chords by one linear layer, beside chroma, shuffled labels and the majority."""
    from phalar import params as parameters
    from phalar.evaluate import probes

    need_files(params)
    project = parameters.load(params)
    settings = replace(
        project.evaluate.chords,
        "evaluate.chords",
        params,
        seconds=heard,
        hop_s=hop,
        window_s=window,
        epochs=epochs,
        guitarset=guitarset,
    )
    known = probes.held_out(project, project.paths)
    asked = probes.for_chords(known, settings, params.parent)
    found = probes.judge_chords(asked, load(model), settings, project.evaluate)
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False)
    console.print(_table(found))
    for source, judged in found.items():
        console.print(
            f"{source}: {judged['windows']} windows of {judged['recordings']} recordings, "
            f"{judged['pieces']} pieces"
        )
        if judged["left_out"]:
            qualities = ", ".join(f"{name} {count}" for name, count in judged["left_out"].items())
            console.print(f"{source}: windows left out by quality of their chord: {qualities}")
    for line in probes.lines({"chords": asked.missing}):
        console.print(line)


def _table(found: dict[str, Any]) -> Table:
    """Lay out the figures of every source, fold and scorer."""
    table = Table("source", "held out", "by", "accuracy", "95 %", "majmin", "root")
    for source, judged in found.items():
        for way in ("recording", "piece"):
            for name in NAMES:
                row = judged[way][name]
                figures = (f"{row[key]:.3f}" for key in ("majmin", "root"))
                interval = f"{row['low']:.2f}..{row['high']:.2f}"
                accuracy = f"{row['accuracy']:.3f}"
                table.add_row(source, way, name, accuracy, interval, *figures)
    return table
