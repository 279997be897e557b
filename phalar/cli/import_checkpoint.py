"""`phalar import-checkpoint`: a model from the checkpoint of the paper's authors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalar.cli.options import Json, need_files, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-checkpoint")(import_checkpoint)


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="The authors' Lightning checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors and model.json.")],
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of the paper's authors; nothing in it is executed."""
    from phalar.model import official

    need_files(file)
    official.import_checkpoint(file, out)
    if as_json:
        print_json({"model": str(out)})
    else:
        typer.echo(f"{out}: done; try `phalar score A B --model {out}`")
