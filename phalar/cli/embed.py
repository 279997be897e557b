"""`phalar embed`: the embeddings of sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    windows: Annotated[
        bool, typer.Option("--windows", help="All of each file, in windows.")
    ] = False,
    window: Annotated[float, typer.Option(min=0.5, help="Length of a window.")] = 5.0,
    hop: Annotated[float, typer.Option(min=0.1, help="A window starts every so often.")] = 2.5,
    out: Annotated[
        Path | None, typer.Option(help="Write a .npy of complex64, a row a file or window.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed sound files: 512 complex numbers of a moment of each, or of each window of them."""
    import numpy as np

    need_files(*files)
    if out is not None and out.suffix != ".npy":
        raise WrongUseError(f"--out {out}: must end in .npy")
    loaded = load(model)
    rows: list[tuple[Path, float, Any]] = []
    for file in files:
        if windows:
            starts_s, z = phalar.embed_windows(loaded, file, window_s=window, hop_s=hop)
            rows += [(file, float(at), row) for at, row in zip(starts_s, z.numpy(), strict=True)]
        else:
            z = phalar.embed(loaded, file, start_s=start, seconds=seconds)
            rows.append((file, start, z.numpy()))
    if out is not None:
        np.save(out, np.stack([row for _, _, row in rows]))
    if as_json:
        print_json(
            [
                {"file": str(file), "start_s": at, "real": row.real.tolist(),
                 "imag": row.imag.tolist()}
                for file, at, row in rows
            ]
        )  # fmt: skip
    elif out is None:
        for file, at, row in rows:
            shown = " ".join(f"{value:.3f}" for value in row[:3])
            where = f"{file} from {at:g} s" if windows else str(file)
            typer.echo(
                f"{where}: {shown} ... ({len(row)} complex numbers; all with --json or --out)"
            )
