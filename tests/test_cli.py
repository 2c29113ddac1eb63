"""The command line as a whole: fast help, true examples."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from acoustic_env.cli import COMMANDS, build_parser

NAMES: Final = tuple(name for commands in COMMANDS.values() for name in commands)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def imported(program: str) -> set[str]:
    """Return the top-level modules that a program has imported when it ends."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stderr.split())


def test_help_imports_no_heavy_library() -> None:
    program = (
        "import contextlib\nfrom acoustic_env.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])"
    )
    found = imported(program)
    assert "argparse" in found
    assert not found & {"numpy", "pandas", "ray", "torch", "pyarrow", "pydantic", "sklearn", "scipy", "yaml", "fsspec"}


def test_help_of_every_subcommand_imports_no_heavy_library() -> None:
    # Readers of clip lists (`clips from-...`) are imported by their own command, with what they read with.
    program = """
from tests.test_cli import build_parser, parsers
helps = [parser.format_help() for parser in parsers(build_parser()) if " clips from-" not in parser.prog]
print(len(helps))"""
    assert not imported(program) & {"numpy", "pandas", "ray", "torch", "pyarrow", "sklearn", "scipy"}


def test_a_command_imports_only_its_own_module() -> None:
    program = """
from acoustic_env.cli import build_parser
import sys
build_parser("store")
print(*(name for name in sys.modules if name.startswith("acoustic_env.commands.")))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert set(done.stdout.split()) == {"acoustic_env.commands.store", "acoustic_env.commands.arguments"}


def test_the_table_of_commands_lists_what_the_modules_add() -> None:
    [added] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert tuple(added.choices) == NAMES


def test_every_example_in_a_help_text_is_accepted_by_the_parser() -> None:
    parser, examples = build_parser(), []
    for each in parsers(parser):
        text = re.sub(r"\\\n +", " ", f"{each.description or ''}\n{each.epilog or ''}")
        examples += re.findall(r"^ +acoustic-env (.*?)(?: {3,}.*)?$", text, re.MULTILINE)
    assert len(examples) >= 30
    for example in examples:
        parser.parse_args(shlex.split(example))
