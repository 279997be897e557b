"""`phalar listening`: do scores agree with what people heard?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import TRAINED, Json, Model, WrongUseError, load, print_json

RESAMPLES = 10_000
"""Draws of the songs behind an interval."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(listening)


def listening(
    folder: Annotated[Path, typer.Argument(help="With user_ratings/ and results_<model>.json.")],
    sounds: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            help="Let the model hear the test: SONG/{bass,drums}/{mix,og,sac,stage,moises}.wav, or "
            "of another format; writes results_<name>.json there.",
        ),
    ] = None,
    model: Model = TRAINED,
    name: Annotated[
        str | None, typer.Option(help="Of the model in the table; default: made of --model.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Length of the windows that are heard.")
    ] = 5.0,
    as_json: Json = False,
) -> None:
    """Correlate the scores of models with the ratings of a listening test."""
    from phalar.evaluate.listening import correlate

    if not folder.is_dir():
        raise WrongUseError(
            f"{folder}: no such folder; it is `listening_tests` of the authors' repository"
        )
    if sounds is None:
        heard: dict[str, Any] = {}
        missing: list[str] = []
    else:
        named = name or re.sub(r"\W+", "-", model).strip("-")
        heard, missing = _hear(folder, sounds, model, named, seconds)
    found = correlate(folder, resamples=RESAMPLES, seed=0, **heard)
    if as_json:
        print_json(found | ({"missing": missing} if sounds else {}))
        return
    _print(found)
    if missing:
        typer.echo(f"no sound of {len(missing)} rated parts: {', '.join(missing)}")
        typer.echo("All figures are over the others; the published ones need all of them.")


def _hear(
    folder: Path, sounds: Path, model: str, name: str, seconds: float
) -> tuple[dict[str, Any], list[str]]:
    """Score what there is of the test's sound; give what `correlate` needs, and what is missing."""
    from phalar.evaluate import audition
    from phalar.evaluate.listening import read_ratings

    if not sounds.is_dir():
        raise WrongUseError(f"{sounds}: no such folder; --audio has a sub-folder a song")
    if (taken := audition.file_of(folder, name)).exists():
        raise WrongUseError(f"{taken}: is there already; give another --name")
    rated = read_ratings(folder / "user_ratings")
    there = audition.find(sounds, rated.items)
    scores = audition.score(load(model), there, seconds=seconds)
    place = audition.file_of(sounds, name)
    audition.write(place, scores)
    typer.echo(f"{place} written", err=True)
    missing = [f"{song}/{instrument}" for instrument, song in there.missing]
    return {"also": {name: scores}, "only": scores.keys()}, missing


def _print(found: dict[str, Any]) -> None:
    table = Table("model", "Pearson", "95 %", "Spearman", "generated", "Spearman")
    best_first = sorted(found["models"].items(), key=lambda model: -model[1]["pearson"])
    for name, all_stems in best_first:
        table.add_row(name, *_figures(all_stems), *_figures(all_stems["generated"])[::2])
    table.add_row("true stem?", *_figures(found["original"]), "", "")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "{ratings} ratings by {listeners} people: {items} stems, {songs} songs".format(**found)
    )


def _figures(found: dict[str, Any]) -> tuple[str, str, str]:
    interval = f"{found['low']:.2f}..{found['high']:.2f}"
    return f"{found['pearson']:.3f}", interval, f"{found['spearman']:.3f}"
