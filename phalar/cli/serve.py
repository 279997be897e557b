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
        typer.Option(envvar="PHALAR_MODEL", help="Where the model of the index is, if it moved."),
    ] = None,
) -> None:
    """Open a page and an API on this machine: drop a mix, hear what of the library fits."""
    try:
        import uvicorn

        from phalar.serve.app import create_app
        from phalar.serve.guard import LOOPBACK
        from phalar.serve.service import Service
    except ImportError as error:
        raise WrongUseError(f"{error}: pip install 'phalar[serve]'") from None
    from phalar.search import Searcher, open_index

    try:
        opened = open_index(index)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    loaded = load_of_index(model, opened)
    service = Service(loaded, Searcher(opened), workers=os.cpu_count() or 1)
    hosts = LOOPBACK | {host} | frozenset(name or ())
    if host not in LOOPBACK:
        typer.echo(f"phalar: {host}: every machine that reaches it can ask", err=True)
    config = uvicorn.Config(
        create_app(service, hosts=hosts), host=host, port=port, log_level="warning"
    )
    listening = config.bind_socket()
    at = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{at}:{listening.getsockname()[1]}  (Ctrl-C ends it)")
    uvicorn.Server(config).run(sockets=[listening])
