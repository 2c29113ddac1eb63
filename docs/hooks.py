"""Text of the documentation that is generated from the code: `<!-- generate: NAME ARGUMENTS -->` in a page."""

from __future__ import annotations

import argparse
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import annotated_types
from pydantic.fields import FieldInfo

from acoustic_env import config, options
from acoustic_env.cli import COMMANDS, build_parser
from acoustic_env.config import RECIPES, Settings

MARK: Final = re.compile(r"^<!-- generate: (\w+) ?(.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks of a page by generated Markdown."""
    return MARK.sub(lambda found: GENERATORS[found[1]](*found[2].split()), markdown)


def settings_tables(name: str, level: str = "3") -> str:
    """Return a table of the fields of a settings class, then one for each class it contains."""
    return "\n\n".join(_tables(getattr(config, name, None) or getattr(options, name), int(level), ""))


def _tables(kind: type[Settings], level: int, path: str) -> Iterator[str]:
    where = f"Section `{path.rstrip('.')}`. " if path else ""
    yield f"{'#' * level} {kind.__name__}\n\n{where}{_summary(kind)}\n\n{_table(kind.model_fields)}"
    for name, field in kind.model_fields.items():
        for inner in _settings_in(field.annotation):
            yield from _tables(inner, level, f"{path}{name}.")


def _summary(kind: type[Settings]) -> str:
    return (kind.__doc__ or "").strip().replace("\n    ", "\n")


def _table(fields: Mapping[str, FieldInfo]) -> str:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", r"\|")
        sections = ", ".join(f"[{one.__name__}](#{one.__name__.lower()})" for one in _settings_in(field.annotation))
        see = f" See {sections}." if sections else ""
        rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {meaning}{see} |")
    return "\n".join(rows)


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
        value = [
            one.model_dump(mode="json", exclude_defaults=True) if isinstance(one, Settings) else one for one in value
        ]
    return (
        "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`".replace("'", "")
    )


def classifier_tables(level: str = "3") -> str:
    """Return a table of the settings of each registered classifier, then one of each section that several share."""
    kinds = config.CLASSIFIERS
    texts = [list(_tables(kinds.load(name), int(level), "")) for name in kinds.names()]
    sections = {text.partition("\n")[0]: text for _, *nested in texts for text in nested}
    return "\n\n".join([*(kind for kind, *_ in texts), *sections.values()])


def block_tables(*names: str) -> str:
    """Return a table of the options that short-time blocks share, then one of each block's own."""
    from acoustic_env.features.registry import BLOCKS
    from acoustic_env.features.short_time import FrameSettings

    texts = [f"### Frames\n\n{_summary(FrameSettings)}\n\n{_table(FrameSettings.model_fields)}"]
    for name in names:
        fields = typing.cast("Any", BLOCKS.load(name)).settings_class.model_fields
        own = {setting: field for setting, field in fields.items() if setting not in FrameSettings.model_fields}
        texts.append(f"### {name}\n\n{_table(own)}")
    return "\n\n".join(texts)


def transform_table() -> str:
    """Return the transforms of variants with their settings and defaults."""
    from acoustic_env.audio.transforms import TRANSFORMS

    rows = ["| transform | what it does | settings |", "|---|---|---|"]
    for name in TRANSFORMS.names():
        kind = TRANSFORMS.load(name)
        settings = "<br>".join(
            f"`{setting}` (default {_default(field)}): {' '.join((field.description or '').split())}"
            for setting, field in kind.model_fields.items()
        )
        rows.append(f"| `{name}` | {_summary(kind)} | {settings or '-'} |")
    return "\n".join(rows)


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


def metrics_table() -> str:
    """Return the metrics of a run by their names in Prometheus."""
    from acoustic_env.pipeline import metrics

    rows = ["| metric | label | meaning |", "|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, metrics.Metric):
            total = "_total" if metric.kind == "Counter" else ""
            rows.append(f"| `ray_{metric.name}{total}` | {metric.tag and f'`{metric.tag}`'} | {metric.description} |")
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
    "blocks": block_tables,
    "transforms": transform_table,
    "help": command_help,
    "recipes": recipe_table,
    "weights": weights_table,
    "errors": error_table,
    "metrics": metrics_table,
}
