"""The `phalar` command: every command is a module here, and a name in `COMMANDS`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import phalar
from phalar.cli import (
    beats,
    chords,
    compare,
    embed,
    import_checkpoint,
    index,
    lineage,
    listening,
    promote,
    score,
    search,
    serve,
    withdraw,
)
from phalar.cli.options import DONE, FAILED, INTERRUPTED, WRONG_USE, WrongUseError, printable

COMMANDS = (
    score,
    embed,
    index,
    search,
    serve,
    compare,
    listening,
    beats,
    chords,
    lineage,
    withdraw,
    promote,
    import_checkpoint,
)
"""In the order of `phalar --help`; each module has a `register` that adds its command to the app.

Modules here import what takes long (torch, MLflow) within their functions only, so that `--help`
and a wrong word are answered at once.
"""

app = typer.Typer(help=phalar.__doc__, add_completion=False, rich_markup_mode=None)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Hold the options that every command shares; `main` reads this one."""


for _module in COMMANDS:
    _module.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 wrong use; an error is one line.

    `--debug` may stand anywhere, because it is added when a command has just failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    words = [word for word in given if word != "--debug"] or ["--help"]
    shown = logging.StreamHandler()
    shown.setFormatter(Printable("phalar: %(message)s"))
    logging.basicConfig(handlers=[shown], level=logging.WARNING)
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
    typer.echo(_lines(f"phalar: {text}"), err=True)
    return code


class Printable(logging.Formatter):
    """Writes what is logged so that no name in it steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return _lines(super().format(record))


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
