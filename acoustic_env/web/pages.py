"""Files of a page, served from the package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import PurePath
from typing import Final

from fastapi import APIRouter, Response

MEDIA_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def add_files(page: APIRouter, folder: str) -> None:
    """Serve the files of a folder of this room, `index.html` as /, and those that all pages share."""
    room = files("acoustic_env.web")
    for file in (*(room / folder).iterdir(), *(room / "shared").iterdir()):
        if kind := MEDIA_TYPES.get(PurePath(file.name).suffix):
            path = f"/{file.name}".removesuffix("index.html")
            page.add_api_route(path, _answer(file.read_bytes(), kind), response_class=Response, include_in_schema=False)


def _answer(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)
