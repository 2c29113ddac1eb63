"""Commands and options of the whole program: how many there are, and that a name means one thing."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

from acoustic_env.cli import build_parser
from acoustic_env.config import STUDY_LAYOUT

EVERYWHERE = {"--json", "--study", "--log-format"}  # the same in each command, count once
RESULTS = "--out"  # what a command writes


def commands(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command with its parser; those of readers have all their options."""
    parser.format_help()
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for name, child in action.choices.items():
            yield from commands(child, *path, name)
    if not nested:
        yield " ".join(path), parser


def options() -> dict[str, dict[str, argparse.Action]]:
    """Command -> option -> its action; the readers of clip lists are one command."""
    found: dict[str, dict[str, argparse.Action]] = defaultdict(dict)
    for name, parser in commands(build_parser()):
        command = "clips from-" if name.startswith("clips from-") else name
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                found[command][(action.option_strings or [action.dest.upper()])[-1]] = action
    return found


def test_there_are_at_most_36_commands_and_220_options() -> None:
    found = options()
    assert len(found) <= 36
    own = sum(len(set(of) - EVERYWHERE) for of in found.values())
    assert own + len(EVERYWHERE) <= 220


def test_an_option_has_one_type_in_the_whole_program() -> None:
    kinds = defaultdict(set)
    for of in options().values():
        for name, action in of.items():
            if name.startswith("--") and name != RESULTS:
                kinds[name].add((getattr(action.type, "__name__", "str"), bool(action.choices), action.nargs == 0))
    assert not {name: found for name, found in kinds.items() if len(found) > 1}


def test_a_path_of_a_study_is_the_same_in_every_command() -> None:
    places = defaultdict(set)
    for name, parser in commands(build_parser()):
        for path in parser.get_default("paths") or {}:
            study = parser.get_default("paths")[path]
            assert study.place in STUDY_LAYOUT, name
            if study.shown != RESULTS:
                places[study.shown].add(study.place)
    assert not {shown: found for shown, found in places.items() if len(found) > 1}
