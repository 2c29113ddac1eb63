"""Checks of a command's arguments that need no heavy library: what is wrong is said at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path


def url(text: str) -> str:
    """Check a location: a path, or an fsspec URL such as s3://bucket/clips.parquet.

    Every option that names a file or a folder has this type, and every command takes any such location there. The walk
    of tests/known_issues/test_every_path_is_a_url.py finds these options by it.
    """
    if not text.strip():
        msg = "expected a path or a URL, found an empty text"
        raise argparse.ArgumentTypeError(msg)
    return text


class RenamedOption(argparse.Action):
    """An option under its old name: refused with its new one."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs="*", const=const, help=argparse.SUPPRESS)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        parser.error(f"{option} is now {self.const}")


def check_inputs(
    *,
    clips: str | None = None,
    store: str | None = None,
    bundle: str | None = None,
    recipe: str | None = None,
    files: Sequence[str] = (),
) -> None:
    """Check that a command's local inputs exist; those behind a protocol are left to the first read.

    Args:
        clips: a clip list.
        store: a feature store to read.
        bundle: a trained classifier.
        recipe: a name or a file.
        files: any files.

    Raises:
        UsageError: an input is missing or of the wrong kind; the message names it.
    """
    for file in (*files, *([clips] if clips else [])):
        _check_file(file)
    folder = local_path(bundle) if bundle else None
    if folder is not None and not (folder / "bundle.json").is_file():
        msg = f"{bundle}: no bundle: bundle.json is not there; make one with acoustic-env train"
        raise UsageError(msg)
    if recipe:
        from acoustic_env.io.documents import load_recipe

        load_recipe(recipe)
    folder = local_path(store) if store else None
    if folder is not None and not _holds_something(folder):
        msg = f"{store}: there is no store; check the URL, or make one with acoustic-env extract --store {store}"
        raise UsageError(msg)


def _check_file(url: str) -> None:
    path = local_path(url)
    if path is None or path.is_file():
        return
    if path.is_dir():
        msg = f"{url}: is a folder, not a file; make a list of its audio with acoustic-env clips from-folder"
        raise UsageError(msg)
    if not path.exists():  # a pipe is neither
        msg = f"{url}: no such file"
        raise UsageError(msg)


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
