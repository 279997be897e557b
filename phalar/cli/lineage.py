"""`phalar lineage`: what a registered model was made from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from phalar.cli.options import Json, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lineage)


def lineage(
    model: Annotated[
        str, typer.Argument(help="A registered model, or a lineage.json.")
    ] = "data/register/lineage.json",
    as_json: Json = False,
) -> None:
    """Show what a registered model was made from, down to every source file."""
    from phalar import lineage as chain

    record = chain.read(model)
    if as_json:
        print_json(record)
    else:
        Console(highlight=False).print(chain.tree(record))
