"""Files of a page, served from the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files

from fastapi import APIRouter, Response


def add_files(page: APIRouter, folder: str, served: Mapping[str, tuple[str, str]]) -> None:
    """Serve files of a folder of this room.

    Args:
        page: receives the routes.
        folder: name.
        served: path -> name of the file and its media type.
    """
    for path, (name, kind) in served.items():
        content = (files("acoustic_env.web") / folder / name).read_bytes()
        page.add_api_route(path, _answer(content, kind), response_class=Response, include_in_schema=False)


def _answer(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)
