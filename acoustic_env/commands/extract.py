"""`acoustic-env extract`: the extraction job."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, cast

from acoustic_env.commands.arguments import (
    add_command,
    add_log_format,
    add_paths,
    add_settings,
    check_inputs,
    settings_of,
)
from acoustic_env.errors import LeaseHeld, TooManyFailures, UsageError
from acoustic_env.io.location import local_path
from acoustic_env.options import ExtractSettings

if TYPE_CHECKING:
    from acoustic_env.pipeline.record import RunRecord


def add_parsers(subparsers: Any) -> None:
    parser = add_command(subparsers, "extract", run)
    add_settings(
        parser,
        ExtractSettings,
        max_error_rate={"metavar": "SHARE"},
        relocated={"action": "append", "metavar": "OLD=NEW"},
    )
    add_log_format(parser)
    add_paths(parser, "clips", "store", "recipe", optional=("recipe",))


def run(namespace: argparse.Namespace) -> None:
    """Compute feature blocks for every clip of a list, into a feature store.

    What is in the store already is not computed again: run the same command after a crash, a Ctrl-C or with a longer
    list, and only what is missing is done. A clip that cannot be read becomes a row of the store's errors table, never
    a stopped job. An id means one piece of audio: the same id with another file or segment than the rows in the store
    is refused, unless --relocated says that the files moved. Without --address (and without RAY_ADDRESS) Ray starts on
    this machine and uses what it has.

    Examples:
        acoustic-env extract --clips clips.parquet --store features --dry-run
        acoustic-env extract --clips clips.parquet --store features --blocks indices,mps --signals raw,fg,bg
        acoustic-env extract --clips s3://bucket/clips.parquet --store s3://bucket/features --recipe urban-nature
    """
    from acoustic_env.pipeline.extract import extract

    settings = settings_of(ExtractSettings, namespace)
    check_inputs(clips=settings.clips)
    folder = local_path(settings.store)
    if folder is not None and folder.is_file():
        raise UsageError(f"{settings.store}: is a file, not a feature store; --store is a folder or another URL")
    too_many: TooManyFailures | None = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray tells what workers print and which node is lost
            record: RunRecord = extract(settings, log=_log)
    except (UsageError, LeaseHeld):
        raise
    except TooManyFailures as error:
        too_many, record = error, cast("RunRecord", error.record)
    except Exception as error:
        error.add_note(f"stopped by an error; what is finished is kept. To resume: {namespace.resume}")
        raise
    if namespace.json:
        print(json.dumps(dataclasses.asdict(record), sort_keys=True), flush=True)
    elif not settings.dry_run:
        print(summary(record, settings.store), flush=True)
    if too_many is not None:  # the record comes first
        raise too_many


def summary(record: RunRecord, store: str) -> str:
    """Return the last line of a run, whose tables are in `store`."""
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
    """Print a line above the progress bar, where there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
