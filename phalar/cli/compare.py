"""`phalar compare`: two models on the same frozen trials."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phalar.cli.options import Json, load, need_files, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    a: Annotated[str, typer.Argument(help="A folder with ranks.parquet, or a model as --model.")],
    b: Annotated[str, typer.Argument(help="Another; a model first answers the trials: minutes.")],
    params: Annotated[Path, typer.Option(help="Of the project with the trials.")] = Path(
        "params.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Compare two models on the same frozen trials: difference of top-1, interval, p."""
    from phalar import params as parameters
    from phalar.evaluate.compare import compare as compare_ranks

    need_files(params)
    settings = parameters.load(params)
    found = compare_ranks(
        *(_answers(name, settings) for name in (a, b)),
        resamples=settings.evaluate.bootstrap,
        seed=settings.evaluate.seed,
    )
    rows = [asdict(row) for row in found]
    if as_json:
        print_json({"a": a, "b": b, "trials": rows})
        return
    table = Table("source", "protocol", "K", "a", "b", "a - b", "95 %", "p")
    for row in rows:
        figures = (f"{100 * row[name]:.1f}" for name in ("a", "b", "difference"))
        interval = f"{100 * row['low']:.1f}..{100 * row['high']:.1f}"
        key = (row["source"], row["protocol"], str(row["candidates"]))
        table.add_row(*key, *figures, interval, f"{row['p']:.3g}")
    Console(highlight=False).print(table, f"a: {a}\nb: {b}", sep="")


def _answers(name: str, settings: Any) -> Any:
    """Read how a model did on the trials, or let it answer them now."""
    from phalar.evaluate import ranks

    if (Path(name) / ranks.RANKS).is_file():
        return ranks.read(Path(name))
    from phalar.evaluate import stage

    return stage.answer(load(name), settings, settings.paths)
