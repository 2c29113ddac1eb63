"""Files of a page, served from the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Response

SHARED: Final = {"/base.css": ("base.css", "text/css"), "/spectrogram.js": ("spectrogram.js", "text/javascript")}


def add_files(page: APIRouter, folder: str, served: Mapping[str, tuple[str, str]]) -> None:
    """Serve files of a folder of this room by path, name and media type, and those that all pages share."""
    places = [(folder, path, *file) for path, file in served.items()]
    places += [("shared", path, *file) for path, file in SHARED.items()]
    for place, path, name, kind in places:
        content = (files("acoustic_env.web") / place / name).read_bytes()
        page.add_api_route(path, _answer(content, kind), response_class=Response, include_in_schema=False)


def _answer(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)
