"""`acoustic-env weights`: list weights, fetch them once, verify them again."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from acoustic_env.commands.arguments import add_command, log, url
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below

if TYPE_CHECKING:
    from acoustic_env.features.embedders.weights_cache import WeightsCache
    from acoustic_env.features.embedders.weights_registry import WeightsSource


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    weights = subparsers.add_parser("weights", help="list, fetch and verify the weights of the embedders")
    actions = weights.add_subparsers(metavar="ACTION", required=True)

    add_command(actions, "ls", _ls, line="list the weights, and which of them are in the cache")

    line = "download weights into the cache that ACOUSTIC_ENV_WEIGHTS names"
    add = add_command(actions, "fetch", _fetch, line=line).add_argument
    add("names", nargs="*", metavar="NAME", help="As `weights ls` calls them (default: all).")
    origin = "File, or folder with files, instead of the network."
    add("--from", type=url, dest="origin", metavar="FILE", help=origin)
    add("--sha256", help="Checksum of the file, instead of the published one (with one NAME).")
    add("--force", action="store_true", help="Fetch again what is in the cache already.")

    line = "compute the checksums of what is in the cache"
    add = add_command(actions, "verify", _verify, line=line).add_argument
    add("names", nargs="*", metavar="NAME", help="As `weights ls` calls them (default: all in it).")


def _ls(options: argparse.Namespace) -> None:
    """List the weights with their origin and license, and which of them are in the cache."""
    from acoustic_env.features.embedders.weights_cache import WeightsCache
    from acoustic_env.features.embedders.weights_registry import WEIGHTS

    cache = WeightsCache()
    rows = [_row(source, cache) for source in WEIGHTS.values()]
    if options.json:
        print(json.dumps({"cache": cache.url, "weights": rows}, indent=1))
        return
    print(f"cache: {cache.url}")
    for row in rows:
        held = f"sha256 {row['sha256'][:12]} ({row['trust']})" if row["in_cache"] else "not fetched"
        print(f"{row['name']:<17} {_megabytes(row['size']):>9}  {row['license']:<11} {held:<41} {row['origin']}")


def _row(source: WeightsSource, cache: WeightsCache) -> dict[str, Any]:
    record = cache.holds(source)
    return {
        "name": source.name,
        "origin": source.url,
        "license": source.license,
        "file": source.file_name,
        "published_sha256": source.sha256,
        "note": source.note,
        "in_cache": record is not None,
        "sha256": None if record is None else record.sha256,
        "size": source.size if record is None else record.size,
        "trust": None if record is None else record.trust,
    }


def _fetch(options: argparse.Namespace) -> None:
    """Download weights into the cache that ACOUSTIC_ENV_WEIGHTS names, checked against their published checksum.

    Examples:
        acoustic-env weights fetch mn04
        acoustic-env weights fetch yamnet-tflite --from yamnet.tflite
    """
    from acoustic_env.features.embedders.weights_cache import WeightsCache
    from acoustic_env.features.embedders.weights_fetch import fetch, prepare
    from acoustic_env.features.embedders.weights_registry import weights_source

    cache = WeightsCache()
    if options.sha256 and len(options.names) != 1:
        raise UsageError("--sha256 is the checksum of one file: name exactly one NAME with it")
    names = _wanted(options.names, options.origin)
    for name in names:
        source = weights_source(name)
        if cache.holds(source) is not None and not options.force and options.sha256 is None:
            cache.local(source)
            log(f"{name}: in the cache already, checksum right: {cache.place(source.file_name)}")
        else:
            log(f"{name}: from {options.origin or source.url}")
            record = fetch(source, cache, options.origin, options.sha256)
            log(f"{name}: sha256 {record.sha256} ({record.trust}), {_megabytes(record.size)}")
            if record.trust == "first fetch":
                log(f"{name}: no checksum is published; this first fetch is trusted and recorded")
        if not options.json:
            print(cache.place(source.file_name))
    for name in names:
        message = prepare(name)
        if message:
            log(f"{name}: {message}")
    if options.json:
        print(json.dumps({"cache": cache.url, "weights": [_row(weights_source(name), cache) for name in names]}))


def _wanted(names: list[str], origin: str | None) -> list[str]:
    """Return the named weights and the lists of classes they need; without names all, or all that the folder has."""
    from acoustic_env.features.embedders.weights_registry import WEIGHTS, weights_source

    there = None if origin is None else files_below(origin)
    if origin is not None and there is None:
        if len(names) != 1:
            raise UsageError(f"--from {origin} is one file: name exactly one NAME with it")
        return names
    wanted = list(names) or [n for n, s in WEIGHTS.items() if there is None or s.file_name in there]
    if not wanted:
        files = ", ".join(source.file_name for source in WEIGHTS.values())
        raise UsageError(f"--from {origin}: none of {files} is in it")
    lists = [weights_source(name).class_list for name in wanted]
    needed = [name for name in lists if name and (there is None or WEIGHTS[name].file_name in there)]
    return sorted({*wanted, *needed}, key=list(WEIGHTS).index)


def _verify(options: argparse.Namespace) -> None:
    """Compute the checksums of the weights in the cache again."""
    from acoustic_env.features.embedders.weights_cache import WeightsCache
    from acoustic_env.features.embedders.weights_registry import WEIGHTS, weights_source

    cache = WeightsCache()
    names = options.names or [name for name, source in WEIGHTS.items() if cache.holds(source) is not None]
    if not names:
        log(f"no weights in {cache.url}")
    states: dict[str, str] = {}
    errors = []
    for name in names:
        try:
            cache.verify(weights_source(name))
            states[name] = "right"
        except UsageError as error:
            errors.append(str(error))
            states[name] = "absent" if cache.holds(weights_source(name)) is None else "wrong"
        if not options.json:
            print(f"{name}: {states[name]}")
    if options.json:
        print(json.dumps({"cache": cache.url, "weights": states}))
    if errors:
        raise UsageError("\n".join(errors))


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.2f} MB"
