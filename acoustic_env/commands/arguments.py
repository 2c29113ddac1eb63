"""Checks of a command's arguments that need no heavy library: what is wrong is said at once."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path, scrub
from acoustic_env.io.location import url as url

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from acoustic_env.config import S, Settings


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    line: str | None = None,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command, with `--json` unless it has no result; the docstring of `run` is its description, with examples
    under "Examples:".

    With a `line`, it is in the list of commands.
    """
    description, _, examples = (inspect.getdoc(getattr(run, "func", run)) or "").partition("\nExamples:\n")
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **({"help": line} if line else {}),
    )
    parser.set_defaults(run=run)
    if json:
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    return parser


# Options that name a path, the same in every command: metavar and help.
PATHS: Final[Mapping[str, tuple[str, str]]] = {
    "clips": ("LIST", "Clip list (Parquet or CSV) or folder of audio."),
    "store": ("URL", "Feature store: a folder or s3://bucket/prefix."),
    "recipe": ("R", "Recipe of the study, a name or a file."),
    "bundle": ("BUNDLE", "Folder of the classifier."),
    "explain": ("DIR", "Folder of `acoustic-env explain`."),
    "compare": ("DIR", "Folder of `acoustic-env compare`."),
    "tune": ("DIR", "Folder of `acoustic-env tune`."),
    "duplicates": ("FILE", "Table of `clips duplicates`."),
    "ranked": ("FILE", "Table of `audit rank`."),
    "sample": ("FILE", "Table of `audit sample`."),
    "annotations": ("FILE", "Answers written by `audit listen` (Parquet or CSV)."),
    "versions": ("DIR", "Folder of versions of the labels."),
    "out": ("", "Result to write."),
}


@dataclass(frozen=True)
class StudyPath:
    """A path option that the study gives where it is not given.

    Attributes:
        place: in the study, as `StudyFolder.place` names it.
        shown: the option as it is typed.
        required: whether the command cannot do without.
        if_there: whether only what is there is taken.
        beside: the option that must be of the study, too; empty for none.
    """

    place: str
    shown: str
    required: bool
    if_there: bool
    beside: str


def add_paths(
    parser: argparse.ArgumentParser,
    *names: str,
    optional: Collection[str] = (),
    if_there: Mapping[str, str] | None = None,
    **places: str,
) -> None:
    """Add path options, and let those that are not given be taken from the study; adds `--study`.

    Args:
        parser: of the command.
        *names: of `PATHS`, each also its place in the study. An option that is there already only gets its place.
        optional: those that the command does without where there is no study.
        if_there: those that it does without where the study has no such file yet, too, each with the option that must
            be of the study as well (another store is not verified by the study's clips); empty for none.
        **places: options of other names than their place in the study, such as out="explain".
    """
    from acoustic_env.config import STUDY_LAYOUT

    paths, actions, beside = {}, {action.dest: action for action in parser._actions}, if_there or {}
    for name, place in {**{name: name for name in names}, **places}.items():
        if name not in actions:
            metavar, text = PATHS[name]
            metavar = metavar or ("FILE" if "." in STUDY_LAYOUT[place] else "DIR")
            actions[name] = parser.add_argument(f"--{name}", type=url, metavar=metavar, help=text)
        action = actions[name]
        action.required = False
        if not action.option_strings:
            action.nargs = "*" if action.nargs == "+" else "?"
        there = ", if there" if name in beside else ""
        action.help = f"{action.help} In a study: {STUDY_LAYOUT[place]}{there}."
        shown = action.option_strings[-1] if action.option_strings else str(action.metavar)
        required = name not in (*optional, *beside)
        paths[name] = StudyPath(place, shown, required, name in beside, beside.get(name, ""))
    add_study(parser)
    parser.set_defaults(paths=paths)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add --study."""
    text = "Folder of the study, a path or URL. Default: that of ACOUSTIC_ENV_STUDY, else the current one if it is one."
    parser.add_argument("--study", type=url, metavar="DIR", help=text)


def complete(namespace: argparse.Namespace) -> None:
    """Set the path options that were not given to those of the study, and `from_study` to their names.

    Raises:
        UsageError: a required one is not given and there is no study, or the study cannot be read.
    """
    namespace.from_study = set()
    absent = {name: path for name, path in getattr(namespace, "paths", {}).items() if not getattr(namespace, name)}
    if not absent:
        return
    from acoustic_env.io.study_folder import find_study

    required = [path.shown for path in absent.values() if path.required]
    try:
        study = find_study(namespace.study)
    except UsageError as error:
        if required or namespace.study:
            raise
        log(f"without a study: {error}")
        return
    if study is None:
        if required:
            raise UsageError(
                f"{', '.join(required)}: not given, and there is no study here to take it from; give it, or give "
                "--study DIR, or make a study with acoustic-env init AUDIO_FOLDER"
            )
        return
    for name, path in absent.items():
        if path.beside and path.beside not in absent:
            continue
        where = study.place_if_there(path.place) if path.if_there else study.place(path.place)
        if where is not None:
            setattr(namespace, name, [where] if getattr(namespace, name) == [] else where)
            namespace.from_study.add(name)


def show(namespace: argparse.Namespace, document: Any, *lines: str) -> None:
    """Print the result of a command, without credentials: the document with --json, else the lines, if any."""
    if namespace.json or lines:
        print(scrub(json.dumps(document) if namespace.json else "\n".join(lines)))


def log(line: str) -> None:
    """Print a line for people on standard error."""
    print(scrub(line), file=sys.stderr, flush=True)


def check_inputs(
    *,
    clips: str | None = None,
    store: str | None = None,
    bundle: str | None = None,
    recipe: str | None = None,
    files: Sequence[str] = (),
) -> None:
    """Check that a command's local inputs exist; those behind a protocol are left to the first read.

    Raises:
        UsageError: an input is missing or of the wrong kind; the message names it.
    """
    for file in files:
        _check_file(file)
    path = local_path(clips) if clips else None
    if path is not None and not path.exists():
        raise UsageError(f"{clips}: no such file or folder")
    folder = local_path(bundle) if bundle else None
    if folder is not None and not (folder / "metadata.json").is_file():
        raise UsageError(f"{bundle}: no bundle: metadata.json is not there; make one with acoustic-env train")
    if recipe:
        from acoustic_env.audio.signals import check_signals
        from acoustic_env.io.documents import load_recipe

        check_signals(load_recipe(recipe), recipe)
    folder = local_path(store) if store else None
    if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
        msg = f"{store}: there is no store; check the URL, or make one with acoustic-env extract --store {store}"
        raise UsageError(msg)


def _check_file(url: str) -> None:
    path = local_path(url)
    if path is None or path.is_file():
        return
    if path.is_dir():
        raise UsageError(f"{url}: is a folder, not a file; a folder of audio is given with --clips and --store")
    if not path.exists():  # a pipe is neither
        raise UsageError(f"{url}: no such file")


def names(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of names.

    >>> names("raw, fg")
    ('raw', 'fg')
    """
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list")
    return found


def by_block(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return block -> fingerprints of texts such as indices=0f3a.

    Raises:
        UsageError: a text of another form.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        block, _, fingerprint = text.partition("=")
        if not block or not fingerprint:
            raise UsageError(f"--fingerprint {text}: expected BLOCK=FINGERPRINT, as acoustic-env store ls has them")
        found.setdefault(block, []).append(fingerprint)
    return found


def positive(text: str) -> int:
    """Read a count of 1 or more.

    >>> positive("12")
    12
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add --log-format."""
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="Form of the lines on standard error; json: one object a line with time, level and event. Default: text.",
    )


def add_settings(parser: argparse.ArgumentParser, kind: type[Settings], **overrides: Mapping[str, Any]) -> None:
    """Add an option for each field of a settings class.

    The option is the field's name with dashes, its help the field's docstring and default; a field of `PATHS` is a
    path. An option that was not given is None in the namespace, so that the field's own default counts; `given`
    collects the others. Overrides replace or complete the arguments of `add_argument` of a field, such as
    `metavar="SHARE"`; fields with nested settings need one.
    """
    for name, field in kind.model_fields.items():
        override = overrides.get(name, {})
        annotations = [one for one in (get_args(field.annotation) or (field.annotation,)) if one is not type(None)]
        options: dict[str, Any] = {"default": None, "help": _help(field)}
        if get_origin(field.annotation) is Literal:
            options["choices"] = get_args(field.annotation)
        elif get_origin(field.annotation) is tuple:
            options |= {"type": names, "metavar": "A,B"}
        elif annotations[0] is bool:
            options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        else:
            kinds = {int: "N", float: "X", str: name.upper()}
            options |= {"type": annotations[0], "metavar": kinds[annotations[0]]}
        if name in PATHS:
            options |= {"type": url, "metavar": PATHS[name][0] or "DIR"}
        if "action" in override:
            options.pop("type", None)
        parser.add_argument(f"--{name.replace('_', '-')}", **{**options, **override})


def given(namespace: argparse.Namespace, kind: type[Settings]) -> dict[str, Any]:
    """Return the fields of a settings class whose options were given."""
    return {name: value for name in kind.model_fields if (value := getattr(namespace, name, None)) is not None}


def settings_of(kind: type[S], namespace: argparse.Namespace) -> S:
    """Return the settings of the options that were given.

    Raises:
        UsageError: a value is out of range; names the option.
    """
    from acoustic_env.config import from_mapping

    values = given(namespace, kind)
    return from_mapping(kind, values, "command line", options=values)


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.is_required() or field.default is None or field.default is False or field.default == ():
        return text
    value = field.get_default(call_default_factory=True)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{text} Default: {shown}."
