"""`acoustic-env config`: the settings of a study, and where each comes from."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from acoustic_env.commands.arguments import add_command, add_study, show
from acoustic_env.errors import UsageError

VARIABLES: Final = ("ACOUSTIC_ENV_WEIGHTS", "RAY_ADDRESS")


def add_parsers(subparsers: Any) -> None:
    add_study(add_command(subparsers, "config", run))


def run(namespace: argparse.Namespace) -> None:
    """Print every setting of the study, what its parts are resolved to, and where each value comes from: study.yaml,
    the program's default, or a variable of the environment.

    Examples:
        acoustic-env config
        acoustic-env config --study s3://bucket/my-study --json
    """
    from acoustic_env.io.study_folder import STUDY_FILE, VARIABLE, find_study, in_folder

    study = find_study(namespace.study)
    if study is None:
        raise UsageError("no study here; give --study DIR, or make one with acoustic-env init AUDIO_FOLDER")
    file = in_folder(study.folder, STUDY_FILE)
    found = "--study" if namespace.study else VARIABLE if os.environ.get(VARIABLE) else "the current folder"
    rows = [("study", study.folder, found)]
    given = study.document.get("paths") or {}
    rows += [(f"paths.{name}", study.place(name), file if name in given else "default") for name in dict(study.paths)]
    for path, value in _leaves(study.recipe.as_json(), ()):
        rows.append((".".join(path), json.dumps(value), file if _named(study.document, path) else "default"))
    rows += [(name, os.environ[name], "environment") for name in VARIABLES if os.environ.get(name)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 60)
    lines = (f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}".rstrip() for name, value, origin in rows)
    show(namespace, [dict(zip(("setting", "value", "from"), row, strict=True)) for row in rows], *lines)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the settings of nested mappings by their paths; an empty mapping is a value."""
    if isinstance(value, Mapping) and value:
        for name, of in value.items():
            yield from _leaves(of, (*path, name))
    else:
        yield path, value


def _named(document: Any, path: tuple[str, ...]) -> bool:
    """Return whether study.yaml has the setting."""
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return False
        document = document[name]
    return True
