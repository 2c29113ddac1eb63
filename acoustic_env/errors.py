"""Errors that end a command, with its exit code, and errors of single clips, with their codes."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

ErrorCode = Literal[
    "not_found",
    "unreachable",
    "access_denied",
    "download_failed",
    "not_audio",
    "decode_failed",
    "empty",
    "too_short",
    "no_such_segment",
    "not_finite",
    "compute_failed",
    "out_of_memory",
    "worker_died",
    "timed_out",
]
# Code of a row of the errors table that ends earlier errors of its subject: this attempt succeeded.
RESOLVED: Final = "resolved"


class ErrorKind(NamedTuple):
    """What a code of the errors table means, and whether it is final for this source, or this block and signal of it.

    Final is what the bytes prove and what would come out the same again; a place, a network or a credential never is.
    """

    meaning: str
    permanent: bool = True


CLIP_ERRORS: Final[dict[ErrorCode, ErrorKind]] = {
    "not_found": ErrorKind("The location does not exist now.", False),
    "unreachable": ErrorKind(
        "This machine cannot reach the location: disk not mounted, no endpoint, no driver.", False
    ),
    "access_denied": ErrorKind("The location exists, but these credentials cannot read it.", False),
    "download_failed": ErrorKind("The transfer was interrupted or timed out.", False),
    "not_audio": ErrorKind("No decoder recognizes the bytes."),
    "decode_failed": ErrorKind("A decoder recognizes the bytes and fails on them."),
    "empty": ErrorKind("No bytes, or no samples."),
    "too_short": ErrorKind("Shorter than 0.1 s, the shortest clip that a block accepts."),
    "no_such_segment": ErrorKind("The segment starts after the end of the recording."),
    "not_finite": ErrorKind("NaN or infinite samples."),
    "compute_failed": ErrorKind("A feature block raised an error."),
    "out_of_memory": ErrorKind("The worker has or had too little memory for this clip alone.", False),
    "worker_died": ErrorKind("The worker process crashed on this clip, repeatedly and on this clip alone."),
    "timed_out": ErrorKind("The decoder did not finish."),
}
TRANSIENT_CODES: Final = frozenset(code for code, kind in CLIP_ERRORS.items() if not kind.permanent)


class AcousticEnvError(Exception):
    """Base of the errors that end a command with a message instead of a traceback."""

    exit_code: int = 2


class UsageError(AcousticEnvError):
    """Wrong usage, settings or input list; the message names file, row, column or option and the remedy."""


class TooManyFailures(AcousticEnvError):  # noqa: N818  the outcome's own name
    """More clips failed than allowed; the job is done, or it stopped early because this was certain.

    Args:
        message: how many of how many clips failed, and where to look.
        record: of the run, printed before this error.
        early: whether some clips were not tried.
    """

    exit_code = 3

    def __init__(self, message: str, record: object = None, *, early: bool = False) -> None:
        super().__init__(message)
        self.record = record
        self.early = early


class LeaseHeld(AcousticEnvError):  # noqa: N818
    """Another writer holds the store or the labels folder; the message names it and the expiry of its lease."""

    exit_code = 4


class StoreInconsistentError(AcousticEnvError):
    """Some clips are unaccounted for: listed clips are not rows + permanent errors + pending clips."""

    exit_code = 5


class ClipError(Exception):
    """One clip cannot be used; it becomes a row of the errors table and the job goes on.

    Args:
        code: one of `ErrorCode`.
        message: what is wrong with the clip.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: ErrorCode = code
        self.message = message

    @property
    def permanent(self) -> bool:
        """Whether another attempt cannot succeed."""
        return self.code not in TRANSIENT_CODES

    def __reduce__(self) -> tuple[type[ClipError], tuple[ErrorCode, str]]:
        return type(self), (self.code, self.message)
