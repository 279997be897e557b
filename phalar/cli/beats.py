"""`phalar beats`: beat tracking by a model that was never taught beats."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import TRAINED, Json, Model, load, need_files, print_json

WOODBLOCK, LOUD = 76, 110
"""Key of General MIDI's drum kit, and velocity."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(beats)


def beats(
    model: Model = TRAINED,
    songs: Annotated[int, typer.Option(min=1, help="Held-out songs of each source.")] = 4,
    heard: Annotated[float, typer.Option("--seconds", min=5, help="Of each, from the start.")] = 20,
    gtzan: Annotated[
        Path | None, typer.Option(help="A folder with GTZAN and its *.beats, all of it.")
    ] = None,
    params: Annotated[Path, typer.Option(help="Of the project with the sources.")] = Path(
        "params.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Track beats zero-shot: F1, CMLt, AMLt beside spectral flux and a fixed tempo."""
    from phalar import params as parameters
    from phalar.evaluate import pieces
    from phalar.evaluate.beats import judge_pieces
    from phalar.evaluate.bootstrap import Bootstrap

    need_files(params)
    settings = parameters.load(params)
    asked = {source: pieces.of_source(settings.paths, source, songs) for source in settings.sources}
    if gtzan is not None:
        asked["gtzan"] = pieces.of_gtzan(gtzan)
    loaded, stroke = load(model), _stroke()
    draw = partial(Bootstrap, resamples=settings.evaluate.bootstrap, seed=settings.evaluate.seed)
    found = {
        source: judge_pieces(listed, loaded, stroke=stroke, seconds=heard, draw=draw)
        for source, listed in asked.items()
    }
    if as_json:
        print_json(found)
        return
    table = Table("source", "by", "F1", "95 %", "CMLt", "AMLt", "pieces")
    for source, judged in found.items():
        for name in ("model", "flux", "fixed"):
            row = judged[name]
            figures = (f"{row[key]:.3f}" for key in ("cmlt", "amlt"))
            interval = f"{row['low']:.2f}..{row['high']:.2f}"
            table.add_row(
                source, name, f"{row['f1']:.3f}", interval, *figures, str(judged["pieces"])
            )
    console = Console(highlight=False)
    console.print(table)
    if gtzan is None:
        console.print("GTZAN is not among them: --gtzan FOLDER with its sound and *.beats adds it.")


def _stroke() -> Any:
    """One stroke of a woodblock by the synthesiser of the embedded sources, float32 (N,)."""
    import numpy as np

    from phalar.sources import synth
    from phalar.sources.scores import DRUM_KIT, Note, Part

    played = Part(DRUM_KIT, [Note(0.0, 0.1, WOODBLOCK, LOUD)], [])
    wave = synth.sound_part(played, cents=0.0, seconds=0.5)
    return np.asarray(0.5 * wave / np.abs(wave).max(), dtype=np.float32)
