"""`phalar listening`: do scores agree with what people heard?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import Json, WrongUseError, print_json

RESAMPLES = 10_000
"""Draws of the songs behind an interval."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(listening)


def listening(
    folder: Annotated[Path, typer.Argument(help="With user_ratings/ and results_<model>.json.")],
    as_json: Json = False,
) -> None:
    """Correlate the scores of models with the ratings of a listening test."""
    from phalar.evaluate.listening import correlate

    if not folder.is_dir():
        raise WrongUseError(
            f"{folder}: no such folder; it is `listening_tests` of the authors' repository"
        )
    found = correlate(folder, resamples=RESAMPLES, seed=0)
    if as_json:
        print_json(found)
        return
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
