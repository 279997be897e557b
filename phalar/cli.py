"""The `phalar` command: score, embed, lineage, import-checkpoint."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import phalar

app = typer.Typer(help=phalar.__doc__, add_completion=False, rich_markup_mode=None)

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

TRAINED = "data/train"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str,
    typer.Option(
        envvar="PHALAR_MODEL",
        help="A model's folder, or its name in the registry such as phalar@candidate.",
    ),
]
Start = Annotated[float, typer.Option("--from", min=0, help="Start of the moment heard, seconds.")]
Seconds = Annotated[float, typer.Option(min=0.5, help="Length of the moment heard, seconds.")]


class WrongUseError(Exception):
    """The command was called with something that is not there or cannot be meant."""


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Hold the options that every command shares; `main` reads this one."""


@app.command()
def score(
    a: Annotated[Path, typer.Argument(help="A sound file.")],
    b: Annotated[Path, typer.Argument(help="Another, that starts at the same moment.")],
    model: Model = TRAINED,
    start: Start = 0.0,
    seconds: Seconds = 10.0,
    as_json: Json = False,
) -> None:
    """Score how well two parts of music fit when both start together; higher is better."""
    _need_files(a, b)
    loaded = _load(model)
    value = phalar.score(loaded, a, b, start_s=start, seconds=seconds)
    if as_json:
        _print_json({"score": value, "a": str(a), "b": str(b), "model": model})
    else:
        typer.echo(f"{value:.4f}")


@app.command()
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

    _need_files(*files)
    if out is not None and out.suffix != ".npy":
        raise WrongUseError(f"--out {out}: must end in .npy")
    loaded = _load(model)
    rows = [phalar.embed(loaded, file, start_s=start, seconds=seconds).numpy() for file in files]
    if out is not None:
        np.save(out, np.stack(rows))
    if as_json:
        _print_json(
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


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="The authors' Lightning checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors and model.json.")],
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of the paper's authors; nothing in it is executed."""
    from phalar.model import official

    _need_files(file)
    official.import_checkpoint(file, out)
    if as_json:
        _print_json({"model": str(out)})
    else:
        typer.echo(f"{out}: done; try `phalar score A B --model {out}`")


@app.command()
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
        _print_json(record)
    else:
        Console(highlight=False).print(chain.tree(record))


def _load(name: str) -> Any:
    """Load a model; a name that leads nowhere is wrong use."""
    try:
        return phalar.load_model(name)
    except FileNotFoundError as error:
        hint = (
            "; train one with `make repro` or name one with --model" if name == "data/train" else ""
        )
        raise WrongUseError(f"{error}{hint}") from None


def _need_files(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise WrongUseError(f"{file}: no such file")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 wrong use; an error is one line.

    `--debug` may stand anywhere, because it is added when a command has just failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    words = [word for word in given if word != "--debug"] or ["--help"]
    logging.basicConfig(format="phalar: %(message)s", level=logging.WARNING)
    try:
        code = app(words, prog_name="phalar", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        code = _explain(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code or DONE)


def _explain(error: Exception) -> int:
    """Say in one line what went wrong, and give the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader has gone, as `head` does; what Python would flush at exit has no place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if isinstance(error, typer.TyperException):
        text, code = f"{error.format_message().rstrip('.')}; see `phalar --help`", WRONG_USE
    elif isinstance(error, WrongUseError):
        text, code = str(error), WRONG_USE
    elif isinstance(error, ValueError | OSError | ImportError):
        text, code = str(error), FAILED
    else:
        text, code = f"{type(error).__name__}: {error}; --debug shows where", FAILED
    typer.echo(f"phalar: {text}", err=True)
    return code


if __name__ == "__main__":
    main()
