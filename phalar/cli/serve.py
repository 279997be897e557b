"""`phalar serve`: the API and the page, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from phalar.cli.options import WrongUseError, load_of_index


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    index: Annotated[Path, typer.Option(help="Folder of the library, or of its index.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default this machine alone can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8017,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further name of this machine under which it may be asked."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Where the model of the index is, if it moved."),
    ] = None,
) -> None:
    """Open a page and an API on this machine: drop a mix, hear what of the library fits."""
    try:
        from phalar.serve import listening
        from phalar.serve.app import create_app
        from phalar.serve.service import Service
    except ImportError as error:
        raise WrongUseError(f"{error}: pip install 'phalar[serve]'") from None
    from phalar.search import Searcher, open_index

    try:
        opened = open_index(index)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    try:
        hosts = listening.names(host, name or ())
        door = listening.listen(host, port)
    except ValueError as error:
        raise WrongUseError(str(error)) from None
    loaded = load_of_index(model, opened)
    service = Service(loaded, Searcher(opened), workers=os.cpu_count() or 1)
    everywhere = listening.is_everywhere(host)

    def ready() -> None:
        url, warning = listening.described(door, host, hosts)
        if warning:
            typer.echo(f"phalar: {warning}", err=True)
        typer.echo(f"{url}  (Ctrl-C ends it)")

    try:
        app = create_app(service, hosts=hosts, own_address=everywhere)
        listening.Server(app, ready).run(sockets=[door])
    finally:
        service.turns.close()
