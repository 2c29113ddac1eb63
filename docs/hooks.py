"""Text of the documentation that is generated from the code: `<!-- generate: NAME ARGUMENTS -->` in a page."""

from __future__ import annotations

import argparse
import os
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final

import annotated_types
from pydantic.fields import FieldInfo

from acoustic_env import config
from acoustic_env.cli import COMMANDS, build_parser
from acoustic_env.config import RECIPES, Settings

MARK: Final = re.compile(r"^<!-- generate: (\w+) ?(.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks of a page by generated Markdown."""
    return MARK.sub(lambda found: GENERATORS[found[1]](*found[2].split()), markdown)


def settings_tables(name: str, level: str = "3") -> str:
    """Return a table of the fields of a settings class, then one for each class it contains."""
    return "\n\n".join(_tables(getattr(config, name), int(level), ""))


def _tables(kind: type[Settings], level: int, path: str) -> Iterator[str]:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    nested = []
    for name, field in kind.model_fields.items():
        inner = _settings_in(field.annotation)
        meaning = " ".join((field.description or "").split()).replace("|", r"\|")
        if inner:
            sections = ", ".join(f"[{one.__name__}](#{one.__name__.lower()})" for one in inner)
            meaning = f"{meaning} See {sections}."
            nested += [(one, f"{path}{name}.") for one in inner]
        rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |")
    summary = (kind.__doc__ or "").strip().replace("\n    ", "\n")
    where = f"Section `{path.rstrip('.')}`. " if path else ""
    yield f"{'#' * level} {kind.__name__}\n\n{where}{summary}\n\n" + "\n".join(rows)
    for one, inside in nested:
        yield from _tables(one, level, inside)


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _settings_in(part)]


def _type(field: FieldInfo) -> str:
    text = _name(field.annotation)
    limits = []
    for rule in field.metadata:
        for kind, sign in (
            (annotated_types.Ge, "≥"),
            (annotated_types.Gt, ">"),
            (annotated_types.Le, "≤"),
            (annotated_types.Lt, "<"),
        ):
            if isinstance(rule, kind):
                limits.append(f"{sign} {getattr(rule, kind.__name__.lower())}")
    return ", ".join([text, *limits])


def _name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if annotation is Any:
        return "any"
    if origin is typing.Literal:
        return r" \| ".join(f"`{part}`" for part in parts)
    if origin is typing.Annotated:
        return _name(parts[0])
    if origin is tuple:
        return f"list of {_name(parts[0])}"
    if origin in (dict, typing.get_origin(typing.Mapping[str, str])):
        return f"mapping of {_name(parts[1])}"
    if parts:
        return r" \| ".join(_name(part) for part in parts)
    return {"str": "text", "float": "number", "int": "integer", "bool": "true \\| false"}.get(
        annotation.__name__, annotation.__name__
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        return "see section"
    if isinstance(value, tuple):
        value = list(value)
    return (
        "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`".replace("'", "")
    )


def classifier_tables(level: str = "3") -> str:
    """Return a table of the settings of each registered classifier."""
    kinds = config.CLASSIFIERS
    return "\n\n".join(text for name in kinds.names() for text in _tables(kinds.load(name), int(level), ""))


def command_help(*only: str) -> str:
    """Return the help text of commands with all their subcommands; of all commands when none is named."""
    os.environ["COLUMNS"] = "100"
    [action] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    names = [name for commands in COMMANDS.values() for name in commands if not only or name in only]
    return "\n\n".join(text for name in names for text in _helps(f"acoustic-env {name}", action.choices[name], 2))


def _helps(name: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}\n\n```text\n{parser.format_help().strip()}\n```"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, inner in action.choices.items():
                yield from _helps(f"{name} {child}", inner, level + 1)


def recipe_table() -> str:
    """Return the recipes of the package, each with the comment that heads its file."""
    rows = ["| recipe | study |", "|---|---|"]
    for file in sorted(RECIPES.glob("*.yaml")):
        comment = re.match(r"(?:# .*\n)*", file.read_text())
        text = " ".join(line.removeprefix("# ") for line in (comment[0] if comment else "").splitlines())
        rows.append(f"| `{file.stem}` | {text} |")
    return "\n".join(rows)


def weights_table() -> str:
    """Return the registered weights with license, size and origin."""
    from acoustic_env.features.embedders.weights_registry import WEIGHTS

    rows = ["| name | network | license | size | origin |", "|---|---|---|---|---|"]
    for source in WEIGHTS.values():
        size = f"{source.size / 1e6:.1f} MB" if source.size else "unknown"
        rows.append(f"| `{source.name}` | {source.architecture or '-'} | {source.license} | {size} | <{source.url}> |")
    return "\n".join(rows)


def error_table() -> str:
    """Return the codes of the errors table."""
    from acoustic_env.errors import CLIP_ERRORS

    rows = ["| code | meaning | tried again by the next run |", "|---|---|---|"]
    rows += [f"| `{code}` | {one.meaning} | {'no' if one.permanent else 'yes'} |" for code, one in CLIP_ERRORS.items()]
    return "\n".join(rows)


GENERATORS: Final[dict[str, Callable[..., str]]] = {
    "settings": settings_tables,
    "classifiers": classifier_tables,
    "help": command_help,
    "recipes": recipe_table,
    "weights": weights_table,
    "errors": error_table,
}
