"""`phalar index`: build, update, check and describe the index of a library of stems."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phalar.cli.options import TRAINED, Json, Model, WrongUseError, load, print_json, printable

if TYPE_CHECKING:
    from phalar.search import Built
    from phalar.search.build import How
    from phalar.search.windows import Grid

Library = Annotated[Path, typer.Argument(help="A folder of sound files, at any depth.")]
Place = Annotated[
    Path | None, typer.Option("--index", help="Folder of the index; by default DIR/.phalar.")
]
Codes = Annotated[
    bool | None,
    typer.Option(
        "--approximate/--exact",
        help="How it is searched; by default approximately from 200,000 windows on.",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read every file: one may have changed in secret.")
]
Forget = Annotated[
    bool, typer.Option("--forget", help="Forget also what may only be out of reach.")
]
LISTED = 10


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(help=__doc__.split(": ", 1)[1].capitalize())
    for command in (build, update, check, info):
        commands.command()(command)
    app.add_typer(commands, name="index")


def build(
    library: Library,
    index: Place = None,
    model: Model = TRAINED,
    window: Annotated[
        float | None, typer.Option(help="Length of a window, seconds; by default 5.")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(help="A window starts every so often, seconds; by default half of --window."),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Hear all again.")] = False,
    approximate: Codes = None,
    verify: Verify = False,
    forget: Forget = False,
    as_json: Json = False,
) -> None:
    """Hear every sound file of a folder; stopped, it goes on where it was.

    Of a library that moved, `--index` names the folder of its index, which follows it.
    """
    _need_extra()
    from phalar.search import store, terms
    from phalar.search.build import How
    from phalar.search.windows import Grid

    folder = index or library / store.FOLDER
    try:
        terms.refuse_missing(library, folder)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    grid = None
    if window is not None or hop is not None:
        window_s = Grid().window_s if window is None else window
        grid = Grid(window_s, window_s / 2 if hop is None else hop)
    how = How(codes=approximate, anew=anew, verify=verify, forget=forget)
    _run(library, folder, model, grid, how, as_json=as_json)


def update(
    library: Annotated[Path, typer.Argument(help="The folder of the stems, or of their index.")],
    model: Annotated[
        str | None, typer.Option(help="Where the model of the index is now, if it moved.")
    ] = None,
    approximate: Codes = None,
    verify: Verify = False,
    forget: Forget = False,
    as_json: Json = False,
) -> None:
    """Hear what is new, forget what is gone; files that only moved keep their entries."""
    _need_extra()
    from phalar.search import store, terms
    from phalar.search.build import How

    folder = _folder(library)
    facts = store.read_facts(folder)
    try:
        terms.refuse_missing(facts.library, folder)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    how = How(codes=approximate, verify=verify, forget=forget)
    _run(facts.library, folder, model or facts.model, None, how, as_json=as_json)


def check(
    library: Annotated[Path, typer.Argument(help="The folder of the stems, or of their index.")],
    as_json: Json = False,
) -> None:
    """Compare every file's bytes with what was heard; exits with 1 where they differ."""
    from phalar.search import open_index
    from phalar.search.check import CHANGED, differences

    found = differences(open_index(_folder(library)))
    if as_json:
        print_json([{"path": path, "what": what} for path, what in found])
    else:
        for path, what in found:
            typer.echo(printable(f"{path}: {what}"))
        # One with the size and date that it had is not looked at by a plain update.
        is_secret = any(what == CHANGED for _, what in found)
        mend = f"run `phalar index update{' --verify' if is_secret else ''}`"
        typer.echo(f"{len(found)} differ; {mend}" if found else "all as heard")
    if found:
        raise typer.Exit(1)


def info(
    library: Annotated[Path, typer.Argument(help="The folder of the stems, or of their index.")],
    as_json: Json = False,
) -> None:
    """Say what an index holds, with which model it was made, and which files are broken."""
    from phalar.search import open_index
    from phalar.search.info import summary

    found = summary(open_index(_folder(library)))
    if as_json:
        print_json(found)
        return
    broken = found.pop("broken")
    found["search"] = _search(found)
    del found["recall"], found["candidates"]
    for name, value in found.items():
        shown = f"{value:.1f}" if isinstance(value, float) else value
        typer.echo(f"{name:>13}  {shown}")
    typer.echo(f"{'broken':>13}  {len(broken)}")
    _list_broken([(each["path"], each["reason"]) for each in broken])


def _need_extra() -> None:
    """Refuse to begin without the packages that an index is made with."""
    try:
        from phalar.search import tags

        tags.need_reader()
    except ImportError as error:
        raise WrongUseError(f"{error}: pip install 'phalar[search]'") from None


def _search(found: dict[str, Any]) -> str:
    """Say how an index is searched, and what that finds."""
    if found["recall"] is None:
        return str(found["search"])
    share = f"{100 * found['recall']:.1f} % of what an exact search finds"
    return f"{found['search']}, {'finds' if found['candidates'] else 'codes would find'} {share}"


def _folder(place: Path) -> Path:
    from phalar.search import store

    folder = store.locate(place)
    if not (folder / store.FACTS).is_file():
        raise WrongUseError(f"{place}: no index there; make one with `phalar index build DIR`")
    return folder


def _run(
    library: Path,
    folder: Path,
    model: str,
    grid: Grid | None,
    how: How,
    *,
    as_json: bool,
) -> None:
    from phalar import search
    from phalar.search.info import summary

    model = _lasting(model)
    loaded = load(model)
    if loaded.sha256 is None:
        raise WrongUseError(f"{model}: has no digest; save the model first")
    built = search.update(
        library,
        folder,
        loaded,
        model_name=model,
        model_sha256=loaded.sha256,
        grid=grid,
        how=how,
    )
    if as_json:
        counts = {name: getattr(built, name) for name in ("heard", "kept", "moved", "removed")}
        lists = {
            name: [{"path": path, "reason": reason} for path, reason in getattr(built, name)]
            for name in ("broken", "unread")
        }
        print_json(counts | lists)
    else:
        _tell(built, folder)
        typer.echo(f"search: {_search(summary(search.open_index(folder)))}")


def _tell(built: Built, folder: Path) -> None:
    typer.echo(
        f"{folder}: {built.heard} heard, {built.kept} as they were, {built.moved} moved or copied, "
        f"{built.removed} gone, {len(built.broken)} broken"
    )
    _list_broken(built.broken)
    if built.unread:
        typer.echo("could not be read this time, and will be looked at by the next update:")
        _list(built.unread, "`--json` lists them all")


def _list_broken(broken: list[tuple[str, str]]) -> None:
    _list(broken, "`phalar index info --json` lists them all")


def _list(listed: list[tuple[str, str]], more: str) -> None:
    width = shutil.get_terminal_size().columns
    for path, reason in listed[:LISTED]:
        typer.echo(printable(f"  {path}: {reason}")[: max(width, 80)])
    if len(listed) > LISTED:
        typer.echo(f"  and {len(listed) - LISTED} more: {more}")


def _lasting(model: str) -> str:
    """Name a model so that the name leads to it later too.

    A folder by its whole path; a registered model by its version, because an alias such as
    `champion` names another one after a promotion.
    """
    from phalar import infer
    from phalar.model import weights

    path = Path(model)
    if path.suffix == ".safetensors" or (path / weights.WEIGHTS_FILE).is_file():
        return str(path.resolve())
    if not infer.REGISTERED.fullmatch(model):
        return model
    from phalar import registry

    try:
        with registry.opened(registry.find(model)) as client:
            name = infer.CHAMPION if model == "champion" else model
            version = registry.find_version(client, name)
    except FileNotFoundError as error:
        raise WrongUseError(str(error)) from None
    return f"{version.name}/{version.version}"
