"""The `acoustic-env` command: one parser made of the rooms' commands, one place that turns errors into exits."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from acoustic_env import __version__
from acoustic_env.errors import AcousticEnvError

# Each module has add_parsers(subparsers): a subparser per command, with set_defaults(run=function of the namespace).
COMMANDS: Final[tuple[str, ...]] = (
    "demo",
    "clips",
    "extract",
    "store",
    "weights",
    "learn",
    "explain",
    "audit",
    "reannotate",
    "report",
    "bench",
)

EXIT_CODES: Final = """\
exit codes: 0 done; 2 wrong usage, settings or input list; 3 done, but more clips failed than allowed;
4 the store is leased by another writer; 5 the books do not close; 130 interrupted (run again to resume)"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="acoustic-env",
        description="From lists of audio clips to feature tables, classifiers and audited labels.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"acoustic-env {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"acoustic_env.commands.{name}").add_parsers(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    namespace = build_parser().parse_args(given)
    try:
        return int(namespace.run(namespace) or 0)
    except AcousticEnvError as error:
        print(f"acoustic-env: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing finished is lost. To resume: acoustic-env {shlex.join(given)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
