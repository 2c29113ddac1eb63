"""The `acoustic-env` command: one parser made of the rooms' commands, one place that turns errors into exits."""

from __future__ import annotations

import argparse
import errno
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
exit codes: 0 done; 1 stopped by an error or for lack of a healthy worker; 2 wrong usage, settings or input list;
3 done, but more clips failed than allowed; 4 the store is leased by another writer; 5 the books do not close;
130 interrupted (run again to resume)"""


REMEDIES: Final[dict[int, str]] = {
    errno.EACCES: "check the rights of this user, or give another place",
    errno.EPERM: "check the rights of this user, or give another place",
    errno.EROFS: "the filesystem is mounted read-only; give another place",
    errno.ENOSPC: "the disk is full; free some space, then run the same command again",
    errno.EDQUOT: "the quota is used up; free some space, then run the same command again",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EISDIR: "give a file, not a folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter path",
}


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
        _print_error(str(error), error)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing finished is lost. To resume: acoustic-env {shlex.join(given)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _print_error(_describe(error), error)
        return 2


def _print_error(message: str, error: BaseException) -> None:
    print(f"acoustic-env: {message}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)


def _describe(error: OSError) -> str:
    """Describe an error of a filesystem that no command has foreseen: the file, the reason and the remedy."""
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = (error.strerror if places else None) or str(error) or type(error).__name__
    remedy = next((text for number, text in REMEDIES.items() if error.errno == number), None)
    if remedy is None and isinstance(error, PermissionError):
        remedy = "check the rights of this user"
    if remedy is None and isinstance(error, FileNotFoundError):
        remedy = "check the path or URL, and that its bucket or folder exists"
    return ": ".join([*places[:1], reason]) + (f"; {remedy}" if remedy else f" ({type(error).__name__})")


if __name__ == "__main__":
    sys.exit(main())
