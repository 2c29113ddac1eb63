"""A study as a folder: study.yaml, which is its recipe and says where things are, and what lies beside it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from acoustic_env.config import STUDY_LAYOUT, Recipe, StudyPaths
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import read_mapping, recipe_and_paths
from acoustic_env.io.files import MissingFileError, is_there
from acoustic_env.io.location import join, local_path

STUDY_FILE: Final = STUDY_LAYOUT["recipe"]
VARIABLE: Final = "ACOUSTIC_ENV_STUDY"


@dataclass(frozen=True)
class StudyFolder:
    """A study that was read.

    Attributes:
        folder: path or URL; "." is the current folder.
        document: what study.yaml says.
        recipe: of the study.
        paths: where its parts are.
    """

    folder: str
    document: Mapping[str, Any]
    recipe: Recipe
    paths: StudyPaths

    def place(self, name: str) -> str:
        """Return where a part or result of the study is; a key of `config.STUDY_LAYOUT`."""
        if name in StudyPaths.model_fields:
            return self._below(getattr(self.paths, name))
        folder, _, rest = STUDY_LAYOUT[name].partition("/")
        return join(self._below(self.paths.audit), rest) if folder == "audit" else self._below(folder)

    def place_if_there(self, name: str) -> str | None:
        """Return where a part or result is, None where there is none yet."""
        where = self.place(name)
        return where if is_there(where) else None

    def _below(self, place: str) -> str:
        place = str(Path(place).expanduser()) if place.startswith("~") else place
        path = local_path(place)
        return place if path is None or path.is_absolute() else in_folder(self.folder, place)


def read_study(folder: str) -> StudyFolder:
    """Read the study in a folder.

    Raises:
        UsageError: there is none, or its study.yaml is damaged or another program's.
    """
    file = in_folder(folder, STUDY_FILE)
    try:
        document = read_mapping(file, "a study")
    except MissingFileError as error:
        make = f"acoustic-env init AUDIO_FOLDER {shlex.quote(folder)}"
        raise UsageError(f"{file}: no such file, so {folder} is no study; make one with {make}") from error
    recipe, paths = recipe_and_paths(document, file)
    return StudyFolder(folder, document, recipe, paths)


def in_folder(folder: str, path: str) -> str:
    """Return the place of a path below a folder, of the current one as it is."""
    return path if folder == "." else join(folder, path)


def find_study(given: str | None = None) -> StudyFolder | None:
    """Return the study that is `given`, else that of ACOUSTIC_ENV_STUDY, else that of the current folder, if any.

    Raises:
        UsageError: as `read_study`.
    """
    folder = given or os.environ.get(VARIABLE)
    if folder:
        return read_study("." if folder == STUDY_FILE else folder.removesuffix(f"/{STUDY_FILE}"))
    return read_study(".") if Path(STUDY_FILE).is_file() else None
