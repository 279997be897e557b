"""What commands share: their options, exit codes, and the check of what they are given."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

import phalar

if TYPE_CHECKING:
    from phalar.model import Phalar
    from phalar.params.types import Strict
    from phalar.search import Index

Section = TypeVar("Section", bound="Strict")

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

STEERING = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode that no name shall bring to a terminal: controls, halves, line ends."""

# Marks that turn the direction of what follows.
TURNING = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

TRAINED = "data/train"
PARAMS = Path("params.yaml")

ProjectParams = Annotated[Path, typer.Option("--params", help="Of the project with the sources.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str,
    typer.Option(
        envvar="PHALAR_MODEL",
        help="A model's folder, or its name in the registry such as phalar@champion.",
    ),
]
Start = Annotated[float, typer.Option("--from", min=0, help="Start of the moment heard, seconds.")]
Seconds = Annotated[float, typer.Option(min=0.5, help="Length of the moment heard, seconds.")]


class WrongUseError(Exception):
    """The command was called with something that is not there or cannot be meant."""


def load(name: str) -> Phalar:
    """Load a model; a name that leads nowhere is wrong use."""
    try:
        return phalar.load_model(name)
    except FileNotFoundError as error:
        hint = "; train one with `make repro` or name one with --model" if name == TRAINED else ""
        raise WrongUseError(f"{error}{hint}") from None


def load_of_index(name: str | None, index: Index) -> Phalar:
    """Load the model that an index was made with, by its own name for it or by one given."""
    loaded = load(name or index.facts.model)
    if loaded.sha256 != index.facts.model_sha256:
        raise WrongUseError(
            f"{name or index.facts.model}: not the model that {index.folder} was made with "
            f"({index.facts.model_sha256[:12]}); name that one with --model, or hear the library "
            "again with `phalar index build` and --anew"
        )
    return loaded


def need_files(*files: Path) -> None:
    """Refuse files that are not there, before anything is loaded."""
    for file in files:
        if not file.is_file():
            raise WrongUseError(f"{file}: no such file")


def replace(
    section: Section | None, name: str, file: Path, **options: float | Path | None
) -> Section:
    """Put what the command line says in the place of values of a section of params.yaml.

    A path of the command line starts where the shell is.
    """
    if section is None:
        raise WrongUseError(f"{name}: is null in {file}; give its values there")
    said = {
        key: str(value.resolve()) if isinstance(value, Path) else value
        for key, value in options.items()
        if value is not None
    }
    return section.model_validate(section.model_dump() | said)


def printable(name: str) -> str:
    """Make of any name one line that a terminal only shows: what would steer it stands as `?`.

    Names of files are given by others, and may hold line breaks, colours, or marks that turn the
    direction of what follows.
    """
    steering = (unicodedata.category(each) in STEERING or each in TURNING for each in name)
    return "".join("?" if is_so else each for each, is_so in zip(name, steering, strict=True))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=1))
