"""Every error a person meets, with the exit code its command ends with."""

from __future__ import annotations

from typing import Final, Literal, get_args

ErrorCode = Literal[
    "not_found",  # the location does not exist
    "unreachable",  # not from this machine: no such folder (a disk not mounted), endpoint, driver or credentials
    "access_denied",  # it exists, but these credentials may not read it
    "download_failed",  # the transfer broke off or timed out
    "not_audio",  # no decoder recognises the bytes
    "decode_failed",  # a decoder recognises them and gives up inside
    "empty",  # no bytes, or no samples
    "too_short",  # fewer samples than the shortest clip any block accepts
    "no_such_segment",  # the wanted segment starts beyond the end of the recording
    "not_finite",  # NaN or infinite samples
    "compute_failed",  # a feature block raised
    "out_of_memory",  # a feature block ran out of memory on a batch of one clip
    "worker_died",  # the worker process crashed on this clip, again and alone
    "timed_out",  # its decoder does not end
]
# A row of the errors table that ends the clip's earlier errors: this attempt at it succeeded.
RESOLVED: Final = "resolved"
ERROR_CODES: Final[tuple[str, ...]] = (*get_args(ErrorCode), RESOLVED)

# Another try may succeed: the network, a busy server, a machine short of memory, settings that can be mended.
TRANSIENT_CODES: Final[frozenset[str]] = frozenset({"unreachable", "access_denied", "download_failed", "out_of_memory"})


class AcousticEnvError(Exception):
    """Base of the errors that end a command with a message instead of a traceback."""

    exit_code: int = 2


class UsageError(AcousticEnvError):
    """Wrong usage, settings or input list; the message names file, row, column or option and the remedy."""


class TooManyFailures(AcousticEnvError):  # noqa: N818  the outcome's own name
    """More clips failed than allowed: the job is done, or it was stopped early because this was certain enough.

    Args:
        message: how many of how many, and where to look.
        record: of the run, which the command prints before this judgment.
        early: whether clips are left that were not tried.
    """

    exit_code = 3

    def __init__(self, message: str, record: object = None, *, early: bool = False) -> None:
        super().__init__(message)
        self.record = record
        self.early = early


class LeaseHeld(AcousticEnvError):  # noqa: N818
    """Another writer holds the store or the labels folder; the message says who and until when."""

    exit_code = 4


class StoreInconsistentError(AcousticEnvError):
    """Clip list, rows, permanent errors and pending clips do not add up."""

    exit_code = 5


class ClipError(Exception):
    """One clip cannot be used: becomes a row of the errors table, never a stopped job.

    Args:
        code: one of `ERROR_CODES`.
        message: what was wrong, for a person.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: ErrorCode = code
        self.message = message

    @property
    def permanent(self) -> bool:
        """Whether another try cannot succeed."""
        return self.code not in TRANSIENT_CODES

    def __reduce__(self) -> tuple[type[ClipError], tuple[ErrorCode, str]]:
        return type(self), (self.code, self.message)
