"""`phalar promote` and `phalar rollback`: the champion, by the gate's rule or back to the last."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phalar.cli.options import Json, print_json

ParamsFile = Annotated[Path, typer.Option("--params", help="The project's parameters.")]
PARAMS = Path("params.yaml")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(promote)
    app.command()(rollback)


def promote(params: ParamsFile = PARAMS, as_json: Json = False) -> None:
    """Compare the challenger with the champion, and promote it where it is surely better."""
    from phalar import gate
    from phalar import params as parameters

    logging.getLogger("phalar").setLevel(logging.WARNING)
    settings = parameters.load(params)
    decision = gate.run(settings, settings.paths)
    if as_json:
        print_json(decision and asdict(decision))
    elif decision is None:
        typer.echo(f"{settings.register_.name} has no challenger; `make repro` registers one")
    else:
        typer.echo(gate.tell(decision))


def rollback(params: ParamsFile = PARAMS, as_json: Json = False) -> None:
    """Return to the champion before this one."""
    from phalar import params as parameters
    from phalar import registry, runlog
    from phalar.registry import champion

    settings = parameters.load(params)
    name = settings.register_.name
    uri = runlog.tracking_uri(settings.tracking, settings.paths.root.parent)
    with registry.opened(uri) as client:
        left, now = champion.rollback(client, name)
    if as_json:
        print_json({"name": name, "left": left, "champion": now})
    else:
        typer.echo(f"{name}@{champion.CHAMPION} is version {now} again, after {left}")
