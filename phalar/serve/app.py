"""The routes: the API, its description, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import swagger_ui_bundle
from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from phalar.search import Moment, Wanted
from phalar.search import change as changing
from phalar.search.query import Found
from phalar.serve.guard import LOOPBACK, Guard
from phalar.serve.service import Service, Upload

MOST_BYTES = 200 << 20
MOST_FILES = 8

PAGE = Path(__file__).parent / "page"

Start = Annotated[float, Form(ge=0, description="Start of the moment, seconds.")]
Seconds = Annotated[float | None, Form(ge=0.5, le=60, description="Its length.")]
Sound = Annotated[UploadFile, File(description="WAV, AIFF, FLAC, OGG or MP3.")]
Sounds = Annotated[list[UploadFile], File(description="Files that start together; summed.")]


def create_app(
    service: Service, *, hosts: frozenset[str] = LOOPBACK, most_bytes: int = MOST_BYTES
) -> FastAPI:
    """Make the app.

    Parameters
    ----------
    service : Service
        What answers.
    hosts : set of str
        Names under which the server may be asked for.
    most_bytes : int
        The largest request that is taken.
    """
    app = FastAPI(title="phalar", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    # The newest that the page of the description reads.
    app.openapi_version = "3.0.3"
    app.add_middleware(Guard, hosts=hosts, most_bytes=most_bytes)
    app.add_exception_handler(ValueError, _wrong)
    _add_model(app, service)
    _add_search(app, service)
    _add_pages(app)
    return app


async def _wrong(_: Request, error: Exception) -> JSONResponse:
    """Answer what cannot be used with the reason, in one line."""
    return JSONResponse({"detail": str(error)}, 422)


def _add_model(app: FastAPI, service: Service) -> None:
    @app.get("/api/info")
    def info() -> dict[str, Any]:
        """What is searched."""
        return service.info()

    @app.post("/api/waveform")
    def waveform(file: Sound) -> dict[str, Any]:
        """Length and outline of a file."""
        return service.waveform(_upload(file))

    @app.post("/api/embed")
    def embed(file: Sound, start_s: Start = 0, seconds: Seconds = None) -> dict[str, list[float]]:
        """The embedding of a moment: 512 complex numbers."""
        return service.embed(_upload(file), start_s, seconds or 10)

    @app.post("/api/score")
    def score(
        a: Sound, b: Sound, start_s: Start = 0, seconds: Seconds = None
    ) -> dict[str, float | None]:
        """How well two files fit that start together, and its percentile."""
        return service.score(_upload(a), _upload(b), start_s, seconds)


def _add_search(app: FastAPI, service: Service) -> None:
    @app.post("/api/search")
    def search(
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
        return service.search(_uploads(files), moment, wanted, tried, refine=refine)

    @app.post("/api/audition", response_class=Response)
    def audition(
        files: Sounds,
        id: Annotated[str, Form()],
        start_s: Start = 0,
        seconds: Seconds = None,
        candidate_start_s: Annotated[float, Form(ge=0)] = 0,
        transpose_st: Annotated[int, Form(ge=-12, le=12)] = 0,
        alone: Annotated[bool, Form()] = False,
    ) -> Response:
        """A candidate together with the moment, aligned, at matched loudness (WAV)."""
        entry = service.entry(id)
        if entry is None or service.path(id) is None:
            raise HTTPException(404, "no such file in the library, or it is gone")
        found = Found(entry, 0.0, candidate_start_s, transpose_st)
        moment = Moment(start_s, seconds)
        sound = service.audition(_uploads(files), moment, found, alone=alone)
        return Response(sound, media_type="audio/wav", headers={"cache-control": "no-store"})

    @app.get("/api/audio/{id}", response_class=FileResponse)
    def original(
        id: str,
        download: Annotated[bool, Query()] = False,
    ) -> FileResponse:
        """The bytes of a file of the library; a part of them where `Range` asks for it."""
        path = service.path(id)
        if path is None:
            raise HTTPException(404, "no such file in the library, or it is gone")
        kind = "attachment" if download else "inline"
        return FileResponse(path, filename=path.name, content_disposition_type=kind)


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
