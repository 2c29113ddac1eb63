"""Watch the share of failing clips while a run goes, so that a wrong bucket is noticed after some dozens of clips."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import TooManyFailures
from acoustic_env.io.location import split_shard
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.record import RunRecord

MIN_FAILURES: Final = 25  # before a run is stopped, whatever the share allowed
FACTOR: Final = 2.0  # of the allowed share, at which a run is stopped


def too_many_fail(allowed: float, finished: int, failed: int, in_work: int = 0) -> bool:
    """Return whether a run should stop, from the counts of its clips so far.

    It stops when `MIN_FAILURES` clips or more have failed, and more than `FACTOR` times the share allowed. At the share
    allowed that is rare: fewer than one run in a hundred.

    >>> too_many_fail(0.05, finished=100, failed=30), too_many_fail(0.05, finished=1_000, failed=60)
    (True, False)

    Args:
        allowed: share of the pending clips that may fail, 0 to 1.
        finished, failed: clips so far.
        in_work: clips that may be in work at once. A clip that fails is finished sooner than its neighbors, so all
            clips in work count as good.
    """
    return failed >= MIN_FAILURES and failed > FACTOR * allowed * (finished + in_work)


def allowed_of_pending(max_error_rate: float, clips: int, pending: int, failed_before: int) -> float:
    """Return the share of the pending clips that may fail before the whole list has more failures than allowed.

    At least `max_error_rate` itself: clips that failed for good in earlier runs do not stop the others.

    >>> allowed_of_pending(0.05, clips=1000, pending=100, failed_before=10)
    0.4
    >>> allowed_of_pending(0.05, clips=1000, pending=100, failed_before=100)
    0.05

    Args:
        max_error_rate: share of the list's clips that may fail.
        clips: on the list.
        pending: of them, to be done by this run.
        failed_before: of them, failed for good and not tried again.
    """
    return max(max_error_rate, (max_error_rate * clips - failed_before) / max(1, pending))


def check_failures(record: RunRecord, errors: pa.Table, settings: ExtractSettings) -> None:
    """Raise TooManyFailures where more of the list failed, or is certain enough to fail, than is allowed.

    Args:
        record: of the run.
        errors: of the run.
        settings: of the run.
    """
    allowed, see = f"--max-error-rate {settings.max_error_rate:g}", f"see: acoustic-env store errors {settings.store}"
    if record.stopped:
        msg = (
            f"{record.stopped}. {_most_frequent(errors, settings)}What is done is kept; fix the cause and run the same "
            f"command again, or raise --max-error-rate; {see}"
        )
        raise TooManyFailures(msg, record, early=True)
    rate = record.failed_on_list / max(1, record.clips)
    if rate > settings.max_error_rate:
        when = "" if record.pending else " since earlier runs"
        again = "" if record.pending else "; they are not tried again without --retry-errors"
        msg = (
            f"done, but {record.failed_on_list} of {record.clips} clips ({rate:.1%}) have no features{when}, more "
            f"than {allowed} allows{again}. {_most_frequent(errors, settings)}{see[0].upper()}{see[1:]}"
        )
        raise TooManyFailures(msg, record)


def _most_frequent(errors: pa.Table, settings: ExtractSettings) -> str:
    """Name the most frequent error with one of its messages, and what to do where audio is gone."""
    if not errors.num_rows:
        return ""
    code = max(errors["code"].value_counts().to_pylist(), key=lambda count: count["counts"])["values"]
    example = errors.filter(pc.equal(errors["code"], code)).slice(0, 1).to_pylist()[0]
    said = f"Most often {code}: {example['message'].rstrip('.?')}. "
    if code != "not_found":
        return said
    if split_shard(example["source"])[0]:
        return (
            f"{said}A list made again from the shards has what they hold: acoustic-env clips from-tar, from-parquet. "
        )
    return (
        f"{said}Audio that is gone for good is left out of the list by: acoustic-env clips check {settings.clips} "
        "--drop-missing NEW.parquet. "
    )
