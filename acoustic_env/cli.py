"""The `acoustic-env` command: the parser of the command that is asked for, and errors turned into exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from types import FrameType
from typing import Final

from acoustic_env import __version__
from acoustic_env.commands.arguments import complete
from acoustic_env.errors import AcousticEnvError
from acoustic_env.io.location import scrub

# Module of acoustic_env.commands -> its commands and what each does. Only the module of the command that is run is
# imported: its add_parsers(subparsers) adds a parser per command, with set_defaults(run=function of the namespace).
COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "demo": {"demo": "run every step on a small synthetic study"},
    "config": {"config": "print the settings of a study, and where each comes from"},
    "init": {"init": "make a study of a folder of audio or a clip list"},
    "clips": {"clips": "make and check clip lists, find duplicates"},
    "extract": {"extract": "compute feature tables for a clip list"},
    "store": {"store": "list, verify, export, compact and clean a feature store"},
    "weights": {"weights": "list, fetch and verify the weights of the embedders"},
    "learn": {
        "train": "train a classifier",
        "tune": "search the classifier's settings",
        "compare": "compare blocks, signals and classifiers in one table",
        "evaluate": "evaluate a classifier on test clips",
        "predict": "predict probabilities for clips or audio files",
    },
    "explain": {"explain": "plot what a classifier relies on"},
    "audit": {"audit": "find wrong labels, estimate their rate, correct them"},
    "reannotate": {"reannotate": "add a new clip list to the labels table (for a schedule)"},
    "serve": {"serve": "serve the page that classifies, and its HTTP API"},
    "report": {"report": "write one HTML page with all results"},
}

EXIT_CODES: Final = """\
exit codes: 0 done; 1 stopped by an error, or no healthy worker is left; 2 wrong usage, settings or input list;
3 done, but more clips failed than allowed; 4 the store is leased by another writer; 5 some clips are unaccounted for;
130 interrupted (run again to resume)"""


REMEDIES: Final[dict[int, str]] = {
    errno.EACCES: "check the permissions of this user, or give another location",
    errno.EPERM: "check the permissions of this user, or give another location",
    errno.EROFS: "the filesystem is mounted read-only; give another location",
    errno.ENOSPC: "the disk is full; free some space, then run the same command again",
    errno.EDQUOT: "the quota is used up; free some space, then run the same command again",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EISDIR: "give a file, not a folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter path",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the command line.

    Args:
        command: the command whose module is imported, the others are only listed; None imports all.

    >>> build_parser("store").parse_args(["store", "ls", "features"]).store
    'features'
    """
    parser = argparse.ArgumentParser(
        prog="acoustic-env",
        description="From lists of audio clips to feature tables, classifiers and audited labels.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"acoustic-env {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for module, commands in COMMANDS.items():
        if command is None or command in commands:
            import_module(f"acoustic_env.commands.{module}").add_parsers(subparsers)
        else:
            for name, summary in commands.items():
                subparsers.add_parser(name, help=summary)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in given if not word.startswith("-")), "")
    namespace = build_parser(command).parse_args(given)
    namespace.resume = scrub(f"acoustic-env {shlex.join(given)}")
    with _logs(getattr(namespace, "log_format", "text")), _ended_by_termination():
        return _run(namespace)


@contextmanager
def _ended_by_termination() -> Iterator[None]:
    """End like Ctrl-C on SIGTERM (a stopped job): leases are released and the way to resume is printed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _logs(form: str) -> AbstractContextManager[None]:
    if form == "text":
        return nullcontext()
    from acoustic_env.pipeline.progress import json_logs

    return json_logs()


def _run(namespace: argparse.Namespace) -> int:
    try:
        complete(namespace)
        return int(namespace.run(namespace) or 0)
    except AcousticEnvError as error:
        _print_error(str(error), error)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing finished is lost. To resume: {namespace.resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _print_error(_describe(error), error)
        return 2


def _print_error(message: str, error: BaseException) -> None:
    message, notes = scrub(message), [scrub(note) for note in getattr(error, "__notes__", ())]
    if event := getattr(sys.stderr, "event", None):  # of a JsonLog
        event("error", "error", fields={"message": message, "notes": notes})
        return
    print(f"acoustic-env: {message}", file=sys.stderr)
    for note in notes:
        print(note, file=sys.stderr)


def _describe(error: OSError) -> str:
    """Describe a filesystem error: the file, the reason and the remedy."""
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = (error.strerror if places else None) or str(error) or type(error).__name__
    remedy = next((text for number, text in REMEDIES.items() if error.errno == number), None)
    if remedy is None and isinstance(error, PermissionError):
        remedy = "check the permissions of this user"
    if remedy is None and isinstance(error, FileNotFoundError):
        remedy = "check the path or URL, and that its bucket or folder exists"
    return ": ".join([*places[:1], reason]) + (f"; {remedy}" if remedy else f" ({type(error).__name__})")


if __name__ == "__main__":
    sys.exit(main())
