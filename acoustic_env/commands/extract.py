"""`acoustic-env extract`: the extraction job."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from acoustic_env.commands.arguments import url
from acoustic_env.config import ExtractSettings, from_mapping
from acoustic_env.errors import LeaseHeld, TooManyFailures, UsageError
from acoustic_env.io.documents import read_mapping

if TYPE_CHECKING:
    from acoustic_env.pipeline.extract import RunRecord

DESCRIPTION = """\
Compute feature blocks for every clip of a list, into a feature store.

What is in the store already is not computed again: run the same command after a crash, a Ctrl-C or with a longer list,
and only what is missing is done. A clip that cannot be read becomes a row of the store's errors table, never a stopped
job. An id means one piece of audio: the same id with another file or segment than the rows in the store is refused,
unless --relocated says that the files moved. Without --address (and without RAY_ADDRESS) Ray starts on this machine and
uses what it has."""

EXAMPLES = """\
examples:
  acoustic-env extract --clips clips.parquet --store features --dry-run
  acoustic-env extract --clips clips.parquet --store features --blocks indices,mps --signals raw,fg,bg
  acoustic-env extract --clips s3://bucket/clips.parquet --store s3://bucket/features --recipe urban-nature"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an extraction run, for the command and for the job script."""
    parser.add_argument(
        "--settings", type=url, metavar="FILE.yaml", help="settings file; options given here as well win over it"
    )
    parser.add_argument("--clips", type=url, metavar="LIST", help="clip list, Parquet or CSV, at any fsspec URL")
    parser.add_argument("--store", type=url, metavar="URL", help="feature store: a folder or s3://bucket/prefix")
    parser.add_argument(
        "--recipe", type=url, metavar="R", help="recipe (name or YAML file) whose signals and blocks are the defaults"
    )
    parser.add_argument("--signals", type=_names, metavar="raw,fg,bg", help="signals of each clip (default: all three)")
    parser.add_argument("--blocks", type=_names, metavar="B,B,...", help="feature blocks (default: indices,mps)")
    parser.add_argument(
        "--engine", choices=("fast", "reference"), help="fast, or the published libraries (default: fast)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="where networks and the fast mps run (default: auto)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N clips of the list")
    parser.add_argument("--dry-run", action="store_true", default=None, help="print the plan and stop")
    parser.add_argument("--retry-errors", action="store_true", default=None, help="try permanent errors again")
    parser.add_argument("--max-error-rate", type=float, metavar="SHARE", help="failed clips allowed (default: 0.05)")
    parser.add_argument(
        "--relocated",
        action="append",
        metavar="OLD=NEW",
        help="the audio below OLD (a folder or URL) moved to NEW, the same files; may be given more than once",
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to join (default: RAY_ADDRESS, else this machine)"
    )
    parser.add_argument("--json", action="store_true", help="print the run record as JSON on stdout")


def add_parsers(subparsers: Any) -> None:
    """The `extract` command."""
    parser = subparsers.add_parser(
        "extract",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Run the job the options describe."""
    from acoustic_env.pipeline.extract import extract

    settings = read_settings(namespace)
    previous = signal.signal(signal.SIGTERM, _terminate)
    judgment: TooManyFailures | None = None
    try:
        record: RunRecord = extract(settings, say=_log)
    except (UsageError, LeaseHeld):
        raise
    except TooManyFailures as error:
        judgment, record = error, cast("RunRecord", error.record)
    except Exception as error:
        error.add_note(f"stopped by an error; what is finished is kept. To resume: {resume_command(settings)}")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if namespace.json:
        print(json.dumps(dataclasses.asdict(record), sort_keys=True), flush=True)
    elif not settings.dry_run:
        print(summary(record, settings.store), flush=True)
    if judgment is not None:  # the record comes first
        raise judgment
    return 0


def read_settings(namespace: argparse.Namespace) -> ExtractSettings:
    """Settings from the file and the options; an option wins over the file.

    Raises:
        UsageError: the file cannot be read, or a setting is missing or wrong.
    """
    values: dict[str, Any] = {}
    where = "command line"
    if namespace.settings:
        where = namespace.settings
        values |= read_mapping(namespace.settings, "--settings")
    names = ExtractSettings.model_fields
    values |= {name: given for name in names if (given := getattr(namespace, name, None)) is not None}
    for name in ("clips", "store"):
        if not values.get(name):
            msg = f"--{name} is missing (give it, or {name}: in the --settings file)"
            raise UsageError(msg)
    return from_mapping(ExtractSettings, values, where)


def resume_command(settings: ExtractSettings) -> str:
    """The command line that does the same run again (and so resumes it)."""
    words = ["acoustic-env", "extract"]
    for name, field in ExtractSettings.model_fields.items():
        value = getattr(settings, name)
        if value == field.default:
            continue
        option = "--" + name.replace("_", "-")
        if name == "relocated":
            words += [word for pair in value for word in (option, pair)]
        elif isinstance(value, bool):
            words += [option]
        elif isinstance(value, tuple):
            words += [option, ",".join(value)]
        else:
            words += [option, str(value)]
    return shlex.join(words)


def summary(record: RunRecord, store: str) -> str:
    """Return the last line of a run.

    Args:
        record: of the run.
        store: where its tables are.
    """
    see = f"see: acoustic-env store errors {store}"
    if not record.pending and record.failed_on_list:
        return (
            f"nothing to do: {store} holds {record.clips - record.failed_on_list} of {record.clips} clips; the other "
            f"{record.failed_on_list} failed for good in earlier runs and are tried again with --retry-errors ({see})"
        )
    if not record.pending:
        return f"nothing to do: {store} holds everything already"
    failures = f", {record.failed} failed ({see})" if record.failed else ""
    rest = f"; {record.left} clips are still pending, run again to do them" if record.left else ""
    return f"{record.finished} clips done at {record.clips_per_second:.2f} clips/s{failures}{rest}"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _names(text: str) -> tuple[str, ...]:
    names: Sequence[str] = [name.strip() for name in text.split(",")]
    if not all(names):
        msg = f"{text!r} is not a comma-separated list"
        raise argparse.ArgumentTypeError(msg)
    return tuple(names)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM (a stopped job) ends like Ctrl-C: the lease is given back and the way to resume is printed."""
    raise KeyboardInterrupt
