"""`acoustic-env init`: a study as a folder, from audio or from a clip list."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import add_command, log, show, url
from acoustic_env.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.config import Recipe


HEAD: Final = """\
# The study {name}, made by acoustic-env init. Edit it freely: every command that runs in this folder reads it.
# acoustic-env config prints all settings, those that are not named here too.
"""
PATHS: Final = """
# Where the parts are when they are not in this folder: any path or URL (s3://bucket/features).
# paths:
"""


def add_parsers(subparsers: Any) -> None:
    add = add_command(subparsers, "init", run).add_argument
    add("audio", type=url, metavar="AUDIO", help="Folder of audio, or a clip list (Parquet or CSV).")
    add("folder", type=url, nargs="?", default=".", metavar="DIR", help="Folder of the study. Default: this one.")
    add("--labels", type=url, metavar="FILE", help="Table (CSV, TSV) of files and labels, in place of the folders.")
    pattern = "Regular expression on a file's path below AUDIO; its first (...) is the recording, which no split tears."
    add("--group-from", metavar="REGEX", help=pattern)
    add("--recipe", type=url, metavar="R", help="Recipe, a name or a file, that study.yaml begins with.")


def run(namespace: argparse.Namespace) -> None:
    """Make a study: a folder with study.yaml, the recipe and where things are, and clips.parquet, the clip list. Every
    command that runs in this folder (or is given --study DIR, or ACOUSTIC_ENV_STUDY) takes its paths from it.

    Labels are the folders below AUDIO, or those of --labels. Without --recipe the labels are the classes, and the
    blocks are the networks whose weights are at hand (acoustic-env weights ls), else soundscape indices and modulation
    spectrum. A folder that holds a study, or another clips.parquet, is never overwritten.

    Examples:
        acoustic-env init recordings/                                     recordings/rain/a.wav has the label rain
        acoustic-env init recordings/ --labels labels.csv                 a table with the columns file and label
        acoustic-env init recordings/ --group-from '/([^/]+)_[0-9]+[.]'   numbered files are of one recording
        acoustic-env init clips.parquet s3://bucket/study --recipe urban-nature
    """
    from acoustic_env.clips.select import select
    from acoustic_env.clips.table import write_clips
    from acoustic_env.config import STUDY_LAYOUT, StudyPaths
    from acoustic_env.io.files import check_place, is_there, write_bytes
    from acoustic_env.io.location import same_place
    from acoustic_env.io.study_folder import in_folder

    folder = namespace.folder.rstrip("/") or "/"
    file, listed = (in_folder(folder, STUDY_LAYOUT[name]) for name in ("recipe", "clips"))
    if is_there(file):
        raise UsageError(f"{file}: there is a study already; edit it, or give another DIR")
    own = same_place(namespace.audio, listed)
    if own and (namespace.labels or namespace.group_from):
        raise UsageError(f"{listed}: --labels and --group-from would change the list itself; give another DIR")
    if not own and is_there(listed):
        raise UsageError(
            f"{listed}: there already; acoustic-env init {shlex.quote(listed)} makes a study of it, or give another DIR"
        )
    check_place(file)
    clips = _clips(namespace)
    _tell_of_recordings(clips, namespace)
    name = re.sub(r"[^\w-]+", "-", _name(folder)).strip("-") or "study"
    recipe, text = _recipe(name, clips, namespace.recipe)
    selection = select(clips, recipe) if _labeled(clips) else None
    log("\n".join(selection.summary() if selection else ["no clip has a label: train needs some (--labels FILE)"]))
    log(f"blocks {', '.join(recipe.blocks)} of signals {', '.join(recipe.signals)}")
    if not own:
        write_clips(clips, listed)
    paths = "".join(f"#   {name}: {STUDY_LAYOUT[name]}\n" for name in StudyPaths.model_fields)
    write_bytes(file, f"{HEAD.format(name=name)}{text.rstrip()}\n{PATHS}{paths}".encode())
    document = {"study": folder, "clips": clips.num_rows, "task": recipe.task, "blocks": list(recipe.blocks)}
    where = "" if folder == "." else f" --study {shlex.quote(folder)}"
    log(f"next: acoustic-env extract{where}")
    show(namespace, document, f"{file}: {recipe.task}, {clips.num_rows:,} clips in {listed}")


def _clips(namespace: argparse.Namespace) -> pa.Table:
    """Return the clips with their labels and groups."""
    from acoustic_env.clips.labels_file import with_labels
    from acoustic_env.clips.recordings import grouped
    from acoustic_env.clips.table import read_clips

    clips = read_clips(namespace.audio)
    if namespace.group_from:
        clips = grouped(clips, namespace.group_from)
    return with_labels(clips, namespace.labels, log) if namespace.labels else clips


def _tell_of_recordings(clips: pa.Table, namespace: argparse.Namespace) -> None:
    """Propose a pattern where names tell of recordings, and warn of recordings that a split may tear."""
    from acoustic_env.clips.recordings import paths_of, propose_groups, torn

    if apart := torn(clips):
        log(
            f"warning: {len(apart):,} files have clips in several groups, which can stand in training and test at once "
            f"({', '.join(apart[:3])}); give them one group, such as by --group-from"
        )
    if namespace.group_from or len(set(clips["group"].to_pylist())) < len(set(clips["uri"].to_pylist())):
        return
    if found := propose_groups(paths_of(clips)):
        log(
            f"names look like parts of {found.groups:,} recordings, at most {found.largest} files each; if so, keep "
            f"each recording together: --group-from '{found.pattern}'"
        )


def _labeled(clips: pa.Table) -> bool:
    return any(clips["labels"].to_pylist())


def _name(folder: str) -> str:
    from pathlib import Path

    from acoustic_env.io.location import local_path

    path = local_path(folder)
    return folder.rpartition("/")[2] if path is None else Path(path).absolute().name


def _recipe(name: str, clips: pa.Table, given: str | None) -> tuple[Recipe, str]:
    """Return the recipe of the study and its text."""
    from acoustic_env.clips.default_recipe import commented, default_recipe
    from acoustic_env.features.registry import networks_at_hand
    from acoustic_env.io.documents import load_recipe, recipe_text

    if given:
        recipe, text = load_recipe(given), recipe_text(given)
        named = re.search(r"^name:", text, re.MULTILINE)
        return recipe, f"\n{text}" if named else f"name: {recipe.name}\n\n{text}"
    networks = networks_at_hand()
    recipe = default_recipe(name, clips, networks or None, ["raw"] if networks else ())
    return recipe, commented(recipe)
