"""Settings files at any location: YAML, or JSON where the name ends in .json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from acoustic_env.config import RECIPES, Recipe, StudyPaths, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_bytes, read_if_there

MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML 1.1, in which 1e-3 is a number, as it is in YAML 1.2 and JSON, and a name that is there twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping as Python's."""
        names = [self.construct_object(name, deep=True) for name, _ in node.value if name.tag != MERGE]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice!r} is there twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), [*"-+.0123456789"]
)


def parse_yaml(text: str) -> Any:
    """Return what a YAML document holds.

    >>> parse_yaml("learning_rate: 1e-3")
    {'learning_rate': 0.001}
    """
    return yaml.load(text, _Loader)


def read_mapping(url: str, what: str) -> dict[str, Any]:
    """Read a settings file at a path or an fsspec URL; `what` ("a recipe") is named in messages.

    Raises:
        UsageError: it cannot be read, is neither YAML nor JSON, or is not a mapping.
    """
    return _parse(read_bytes(url), url, what)


def _parse(data: bytes, url: str, what: str) -> dict[str, Any]:
    kind = "JSON" if url.lower().endswith(".json") else "YAML"
    try:
        text = data.decode("utf-8-sig")
        document = json.loads(text) if kind == "JSON" else parse_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{url}: not a {kind} file: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{url}: {what} is a mapping of settings, not {type(document).__name__}")
    return document


def load_recipe(name_or_url: str) -> Recipe:
    """Read a recipe of the package by name, or from a YAML file at any location, a study's too.

    >>> load_recipe("urban-nature").task
    'binary'

    Raises:
        UsageError: no such recipe or file, not YAML, or a key or value that is wrong (named with its place).
    """
    url, data = _recipe_file(name_or_url)
    return recipe_and_paths(_parse(data, url, "a recipe"), url)[0]


def recipe_text(name_or_url: str) -> str:
    """Return the text of a recipe's file, comments included; raises as `load_recipe`."""
    url, data = _recipe_file(name_or_url)
    if url.lower().endswith(".json"):
        return yaml.safe_dump(_parse(data, url, "a recipe"), sort_keys=False, allow_unicode=True)
    return data.decode("utf-8-sig")


def _recipe_file(name_or_url: str) -> tuple[str, bytes]:
    names = sorted(recipe.stem for recipe in RECIPES.glob("*.yaml"))
    url = str(RECIPES / f"{name_or_url}.yaml") if name_or_url in names else name_or_url
    data = read_if_there(url)
    if data is None:
        raise UsageError(f"no recipe {name_or_url!r}: neither a file nor one of {', '.join(names)}")
    return url, data


def recipe_and_paths(document: Mapping[str, Any], url: str) -> tuple[Recipe, StudyPaths]:
    """Return what a recipe's file says; in that of a study, `paths` says where its parts are.

    Raises:
        UsageError: a key or value that is wrong, named with its place.

    >>> recipe, paths = recipe_and_paths({"task": "multiclass", "paths": {"store": "s3://b/features"}}, "study.yaml")
    >>> recipe.name, paths.store, paths.clips
    ('study', 's3://b/features', 'clips.parquet')
    """
    own = {"name": PurePosixPath(url).stem} | {key: value for key, value in document.items() if key != "paths"}
    paths = document.get("paths", {})
    if not isinstance(paths, Mapping):
        raise UsageError(f"{url}: paths: expected {', '.join(StudyPaths.model_fields)} with a path each")
    return from_mapping(Recipe, own, url), from_mapping(StudyPaths, paths, f"{url}: paths")
