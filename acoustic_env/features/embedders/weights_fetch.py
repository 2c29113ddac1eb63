"""Bringing weights into the cache: the only place that uses the network, and only when a person asks for it."""

from __future__ import annotations

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.contract import EmbedderBlock
from acoustic_env.features.embedders.weights_cache import Record, WeightsCache
from acoustic_env.features.embedders.weights_registry import WeightsSource, weights_source
from acoustic_env.features.registry import make_block, names_where
from acoustic_env.io.files import copy_to, files_below
from acoustic_env.io.location import join


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
    from fsspec.callbacks import TqdmCallback

    if origin is not None and files_below(origin) is not None:
        origin = join(origin, source.file_name)
    with cache.new_file(source.size) as partial:
        with TqdmCallback({"desc": source.name, "unit": "B", "unit_scale": True, "disable": None}) as progress:
            try:
                copy_to(origin or source.url, partial, progress)
            except UsageError as error:
                if origin is not None:
                    raise
                raise UsageError(f"{error}. {cache.by_hand(source)}") from error
        return cache.put(source, partial, origin or source.url, sha256)


def prepare(name: str) -> str | None:
    """Convert freshly fetched weights, so that workers need not; return what kept it from happening, if anything."""
    source = weights_source(name)
    if not names_where("converts", [source.architecture]):
        return None
    block = make_block(source.architecture, "fast", {"weights": name})
    assert isinstance(block, EmbedderBlock)
    try:
        block.build()
    except UsageError as error:
        return f"fetched, but not converted yet: {error}"
    return None
