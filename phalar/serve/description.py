"""The description of the API in OpenAPI 3.0, which its page reads: FastAPI writes 3.1."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

VERSION = "3.0.3"


def describe(app: FastAPI) -> None:
    """Let an app describe itself in version 3.0."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = {**_as_3_0(described()), "openapi": VERSION}
        return app.openapi_schema

    # The method is meant to be replaced so.
    app.openapi = openapi  # type: ignore[method-assign]


def _as_3_0(part: Any) -> Any:
    """Say files and what may be null as version 3.0 does, in all that lies below."""
    if isinstance(part, list):
        return [_as_3_0(each) for each in part]
    if not isinstance(part, dict):
        return part
    part = {name: _as_3_0(below) for name, below in part.items()}
    if part.get("contentMediaType") == "application/octet-stream":
        del part["contentMediaType"]
        part["format"] = "binary"
    choices = part.get("anyOf", [])
    if {"type": "null"} in choices:
        del part["anyOf"]
        rest = [each for each in choices if each != {"type": "null"}]
        (only,) = rest if len(rest) == 1 else [{"anyOf": rest}]
        part = {**only, **part, "nullable": True}
    return part
