"""`phalar embed`: the embeddings of sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import phalar
from phalar.cli.options import (
    TRAINED,
    Json,
    Model,
    Seconds,
    Start,
    WrongUseError,
    load,
    need_files,
    print_json,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)


def embed(
    files: Annotated[list[Path], typer.Argument(help="Sound files.")],
    model: Model = TRAINED,
    start: Start = 0.0,
    seconds: Seconds = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="Write a .npy of complex64, a row a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed sound files: 512 complex numbers each."""
    import numpy as np

    need_files(*files)
    if out is not None and out.suffix != ".npy":
        raise WrongUseError(f"--out {out}: must end in .npy")
    loaded = load(model)
    rows = [phalar.embed(loaded, file, start_s=start, seconds=seconds).numpy() for file in files]
    if out is not None:
        np.save(out, np.stack(rows))
    if as_json:
        print_json(
            [
                {"file": str(file), "real": row.real.tolist(), "imag": row.imag.tolist()}
                for file, row in zip(files, rows, strict=True)
            ]
        )
    elif out is None:
        for file, row in zip(files, rows, strict=True):
            shown = " ".join(f"{value:.3f}" for value in row[:3])
            typer.echo(
                f"{file}: {shown} ... ({len(row)} complex numbers; all with --json or --out)"
            )
