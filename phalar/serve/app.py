"""The routes: the API, its description, and the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import swagger_ui_bundle
from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from phalar.search import Moment, Wanted
from phalar.search import change as changing
from phalar.serve.description import describe
from phalar.serve.guard import LOOPBACK, Guard
from phalar.serve.library import NotThereError
from phalar.serve.service import Candidate, Service
from phalar.serve.turns import GoneError
from phalar.serve.uploads import Upload

MOST_BYTES = 200 << 20
MOST_FILES = 8

DAY_S = 86_400
"""No start is later."""

PAGE = Path(__file__).parent / "page"

Start = Annotated[
    float, Form(ge=0, le=DAY_S, allow_inf_nan=False, description="Start of the moment, seconds.")
]
Seconds = Annotated[float | None, Form(ge=0.5, le=60, description="Its length.")]
Sound = Annotated[UploadFile, File(description="WAV, AIFF, FLAC, OGG or MP3.")]
Sounds = Annotated[list[UploadFile], File(description="Files that start together; summed.")]


def create_app(
    service: Service,
    *,
    hosts: frozenset[str] = LOOPBACK,
    own_address: bool = False,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """Make the app.

    Parameters
    ----------
    service : Service
        What answers.
    hosts : set of str
        Names under which the server may be asked for.
    own_address : bool
        Whether also by the address that a connection came in at.
    most_bytes : int
        The largest request that is taken.
    """
    app = FastAPI(title="phalar", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    describe(app)
    app.add_middleware(Guard, hosts=hosts, own_address=own_address, most_bytes=most_bytes)
    for kind, code in ((ValueError, 422), (NotThereError, 404), (GoneError, 503)):
        app.add_exception_handler(kind, partial(_failed, code))
    _add_model(app, service)
    _add_search(app, service)
    _add_pages(app)
    return app


async def _failed(code: int, _: Request, error: Exception) -> JSONResponse:
    """Answer what cannot be used with the reason, in one line."""
    return JSONResponse({"detail": str(error)}, code)


async def _gone(request: Request) -> None:
    """Wait until a client has gone, whose request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_model(app: FastAPI, service: Service) -> None:
    @app.get("/api/info")
    def info() -> dict[str, Any]:
        """What is searched."""
        return service.info()

    @app.post("/api/waveform")
    async def waveform(request: Request, file: Sound) -> dict[str, Any]:
        """Length and outline of a file."""
        work = partial(service.waveform, _upload(file))
        return await service.turns.take(work, partial(_gone, request))

    @app.post("/api/embed")
    async def embed(
        request: Request, file: Sound, start_s: Start = 0, seconds: Seconds = None
    ) -> dict[str, list[float]]:
        """The embedding of a moment: 512 complex numbers."""
        work = partial(service.embed, _upload(file), start_s, seconds or 10)
        return await service.turns.take(work, partial(_gone, request))

    @app.post("/api/score")
    async def score(
        request: Request, a: Sound, b: Sound, start_s: Start = 0, seconds: Seconds = None
    ) -> dict[str, float | None]:
        """How well two files fit that start together, and its percentile."""
        work = partial(service.score, _upload(a), _upload(b), start_s, seconds)
        return await service.turns.take(work, partial(_gone, request))


def _add_search(app: FastAPI, service: Service) -> None:
    @app.post("/api/search")
    async def search(
        request: Request,
        files: Sounds,
        start_s: Start = 0,
        seconds: Seconds = None,
        top: Annotated[int, Form(ge=1, le=200)] = 10,
        instrument: Annotated[list[str], Form()] = [],  # noqa: B006 - FastAPI copies it
        exclude: Annotated[list[str], Form()] = [],  # noqa: B006
        transpose: Annotated[int, Form(ge=0, le=12, description="Up or down, semitones.")] = 0,
        refine: Annotated[bool, Form(description="Starts to milliseconds.")] = True,
    ) -> list[dict[str, Any]]:
        """What of the library fits, best first."""
        wanted = Wanted(top, frozenset(filter(None, instrument)), frozenset(filter(None, exclude)))
        tried = changing.changes((-transpose, transpose), (1, 1))
        moment = Moment(start_s, seconds)
        work = partial(service.search, _uploads(files), moment, wanted, tried, refine=refine)
        return await service.turns.take(work, partial(_gone, request))

    @app.post("/api/audition", response_class=Response)
    async def audition(
        request: Request,
        files: Sounds,
        id: Annotated[str, Form()],
        start_s: Start = 0,
        seconds: Seconds = None,
        candidate_start_s: Annotated[float, Form(ge=0, le=DAY_S, allow_inf_nan=False)] = 0,
        transpose_st: Annotated[int, Form(ge=-12, le=12)] = 0,
        alone: Annotated[bool, Form()] = False,
    ) -> Response:
        """A candidate together with the moment, aligned, at matched loudness (WAV)."""
        moment = Moment(start_s, seconds)
        candidate = Candidate(id, candidate_start_s, transpose_st)
        work = partial(service.audition, _uploads(files), moment, candidate, alone=alone)
        sound = await service.turns.take(work, partial(_gone, request))
        return Response(sound, media_type="audio/wav", headers={"cache-control": "no-store"})

    @app.head("/api/audio/{id}", include_in_schema=False)
    @app.get("/api/audio/{id}", response_class=FileResponse)
    def original(
        id: str,
        download: Annotated[bool, Query()] = False,
    ) -> FileResponse:
        """The bytes of a file of the library; a part of them where `Range` asks for it."""
        path, name = service.original(id)
        kind = "attachment" if download else "inline"
        return FileResponse(path, filename=name, content_disposition_type=kind)


def _add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/swagger", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))
    app.mount("/", StaticFiles(directory=PAGE, html=True))


def _uploads(files: list[UploadFile]) -> list[Upload]:
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files)} files: at most {MOST_FILES} are summed")
    return [_upload(file) for file in files]


def _upload(file: UploadFile) -> Upload:
    # A name may hold anything; control characters would break lines and terminals.
    name = "".join(c if c.isprintable() else "?" for c in Path(file.filename or "sound").name)
    return Upload(name[:200] or "sound", file.file)
