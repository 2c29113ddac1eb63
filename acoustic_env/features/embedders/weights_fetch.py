"""Bringing weights into the cache: the only place that uses the network, and only when a person asks for it."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Final

import fsspec
from tqdm import tqdm

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.weights_cache import Record, WeightsCache, copy_digest, no_space, temporary_file
from acoustic_env.features.embedders.weights_registry import WeightsSource, weights_source
from acoustic_env.io.files import files_below
from acoustic_env.io.location import join

TIMEOUT_S: Final = 60
# Networks whose weights are converted, and the embedder that knows how.
CONVERTED: Final = {
    "yamnet": "acoustic_env.features.embedders.yamnet:YamnetEmbedder",
    "vggish": "acoustic_env.features.embedders.vggish:VggishEmbedder",
}


def fetch(source: WeightsSource, cache: WeightsCache, origin: str | None = None, sha256: str | None = None) -> Record:
    """Fetch one file, verify it and place it in the cache, whole or not at all.

    Args:
        source: what to fetch.
        cache: where to.
        origin: a file, a folder that holds it under its own name, or any fsspec URL; None for the published origin.
        sha256: what the file is known to be, instead of the published checksum.

    Raises:
        UsageError: no network, not found, broken off, not the published file, or no space.
    """
    if origin is not None and files_below(origin) is not None:
        origin = join(origin, source.file_name)
    with temporary_file(cache.node, source.size) as partial:
        if origin is None:
            _download(source, cache, partial)
        else:
            _copy(origin, partial)
        return cache.put(source, partial, origin or source.url, sha256)


def prepare(name: str) -> str | None:
    """Convert freshly fetched weights, so that workers need not; returns what kept it from happening, if anything."""
    source = weights_source(name)
    if source.architecture not in CONVERTED:
        return None
    module, _, attribute = CONVERTED[source.architecture].partition(":")
    try:
        getattr(import_module(module), attribute)(name).build()
    except UsageError as error:
        return f"fetched, but not converted yet: {error}"
    return None


def _download(source: WeightsSource, cache: WeightsCache, target: Path) -> None:
    request = urllib.request.Request(source.url, headers={"User-Agent": "acoustic-env"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, target.open("wb") as file:
            promised = response.headers.get("Content-Length")
            total = None if promised is None else int(promised)
            bar = tqdm.wrapattr(response, "read", total=total, desc=source.name, disable=None)  # only on a terminal
            with bar as watched, no_space(target.parent, source.size):
                _, size = copy_digest(watched, file)
                file.flush()
    except urllib.error.HTTPError as error:
        msg = f"{source.url}: the server answers {error.code} {error.reason}. {cache.by_hand(source)}"
        raise UsageError(msg) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        msg = f"{source.url}: cannot be reached: {reason}. {cache.by_hand(source)}"
        raise UsageError(msg) from error
    if total is not None and size != total:
        msg = f"{source.url}: broken off after {size:,} of {total:,} bytes; run the command again"
        raise UsageError(msg)


def _copy(origin: str, target: Path) -> None:
    try:
        with fsspec.open(origin, "rb") as stream, target.open("wb") as file, no_space(target.parent, None):
            copy_digest(stream, file)
            file.flush()
    except FileNotFoundError as error:
        msg = f"{origin}: not found"
        raise UsageError(msg) from error
    except UsageError:
        raise
    except Exception as error:
        msg = f"{origin}: cannot be read ({type(error).__name__}: {error})"
        raise UsageError(msg) from error
