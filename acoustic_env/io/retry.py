"""The one retry policy of store, audio and weights; failures that stay become errors for people.

Pauses grow and are random, so that many readers that were refused together do not come back together. A service that
has answered this process before gets `GIVE_UP_S` to come back; one that never did gets `TRIES` tries, so that a wrong
address is an error after seconds. A service that stayed away that long is not waited for again until it answers.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from acoustic_env.errors import AcousticEnvError
from acoustic_env.io.location import scrub

T = TypeVar("T")

TRIES: Final = 7  # at least
FIRST_PAUSE_S: Final = 0.1  # the longest first pause; doubled after every try, up to MAX_PAUSE_S
MAX_PAUSE_S: Final = 5.0
GIVE_UP_S: Final = 120.0  # twice an outage that costs nothing

# s3fs raises these for throttling, a server's own failures and overlapping operations.
TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EAGAIN, errno.ETIMEDOUT}
)
TRANSIENT_S3: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
     "TooManyRequests", "OperationAborted", "RequestTimeTooSkewed", "IncompleteBody", "XAmzContentSHA256Mismatch",
     "429", "500", "502", "503", "504"}
)  # fmt: skip
TRANSIENT_HTTP: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# Classes of botocore, aiohttp, urllib3 and fsspec, by name: none of them is imported for a local store.
TRANSIENT_CLASSES: Final = frozenset(
    {"HTTPClientError", "ResponseParserError", "ClientPayloadError", "ClientConnectionError", "IncompleteRead",
     "FSTimeoutError", "TimeoutError", "ConnectionError"}
)  # fmt: skip
CREDENTIAL_CLASSES: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})

_repeated: Final[deque[None]] = deque()  # one element per repeated request; threads append


log = logging.getLogger("acoustic_env.io")


@dataclass
class _Service:
    """What is known of a bucket or host in this process."""

    answered: bool = False
    failing_since: float | None = None  # of time.monotonic; None: its last answer was no transient failure

    def answers(self) -> None:
        """Note an answer, be it a refusal."""
        self.answered, self.failing_since = True, None

    def fails(self, error: BaseException) -> None:
        """Note a transient failure; one with a code or status is an answer of the service itself."""
        self.failing_since = self.failing_since or time.monotonic()
        self.answered = self.answered or bool(s3_code(error)) or getattr(error, "status", None) is not None


_SERVICES: Final[defaultdict[str, _Service]] = defaultdict(_Service)


class StoreError(AcousticEnvError):
    """A file cannot be read or written; the message says which file, why, and what to do."""


def retrying(call: Callable[[], T], place: str, done: str) -> T:
    """Call until it succeeds, with growing random pauses while the failure is one that passes.

    Args:
        call: without side effects that a second call would double.
        place: URL for the message; its bucket or host is the service that is waited for.
        done: what was to be done to it, as a participle.

    Raises:
        FileNotFoundError, FileExistsError: as they came, for the caller knows whether that is an answer.
        StoreError: the failure stays, or does not pass.
    """
    service, began = _SERVICES["/".join(place.split("/", 3)[:3])], time.monotonic()
    tries = 0
    while True:
        tries += 1
        try:
            result = call()
        except Exception as error:  # every filesystem has its own exceptions
            if not transient(error):
                service.answers()
                if isinstance(error, FileNotFoundError | FileExistsError | AcousticEnvError):
                    raise
                raise store_error(place, done, error) from error
            service.fails(error)
            waited = time.monotonic() - min(service.failing_since or began, began)
            if tries >= TRIES and (waited >= GIVE_UP_S or not service.answered):
                raise store_error(place, done, error, tries) from error
            if tries == TRIES:
                msg = "%s: not yet %s (%s); trying again for up to %.0f s"
                log.warning(msg, place, done, _said(error), GIVE_UP_S)
        else:
            service.answers()
            return result
        _repeated.append(None)
        time.sleep(random.uniform(0.0, min(FIRST_PAUSE_S * 2.0 ** (tries - 1), MAX_PAUSE_S)))


def take_repeats() -> int:
    """Return how many requests of this process were repeated since the last call."""
    repeats = len(_repeated)
    for _ in range(repeats):
        _repeated.popleft()
    return repeats


def expect_answers() -> None:
    """Wait for every service as for one that has answered: a worker's run has reached them from another process."""
    _SERVICES.default_factory = lambda: _Service(answered=True)


def transient(error: BaseException) -> bool:
    """Return whether the same call may succeed a moment later."""
    if s3_code(error) in TRANSIENT_S3 or getattr(error, "status", None) in TRANSIENT_HTTP:
        return True
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    return bool(TRANSIENT_CLASSES & {kind.__name__ for kind in type(error).__mro__})


def s3_code(error: BaseException | None) -> str | None:
    """Return the S3 error code ("SlowDown", "PreconditionFailed", ...) behind an exception, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return None


def store_error(place: str, done: str, error: BaseException, tries: int | None = None) -> StoreError:
    """Describe what happened to a file, with the remedy.

    Args:
        place: the file's URL.
        done: what was to be done to it, as a participle.
        error: what came.
        tries: how often it was tried.
    """
    number = error.errno if isinstance(error, OSError) else None
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & CREDENTIAL_CLASSES:
        reason = f"no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk or quota is full; free some space, then run the same command again"
    elif number == errno.EROFS:
        reason = "the filesystem is mounted read-only; use a place that can be written"
    elif isinstance(error, PermissionError):
        reason = f"permission denied ({s3_code(error) or error.strerror or error}); check the permissions of this user"
    elif isinstance(error, IsADirectoryError):
        reason = "it is a folder, not a file"
    elif isinstance(error, NotADirectoryError | FileExistsError):
        reason = f"{error.strerror}: a part of its path is a file, not a folder; check the path"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such bucket or folder; create it, or check the URL and AWS_ENDPOINT_URL"
    elif tries is not None:
        reason = f"{_said(error)}, after {tries} tries; when the service answers again, run the same command again"
    else:
        reason = _said(error)
    return StoreError(scrub(f"{place}: cannot be {done}: {reason}"))


def _said(error: BaseException) -> str:
    code = s3_code(error)
    text = str(error).splitlines()[0] if str(error) else ""
    return scrub(f"{code or type(error).__name__}: {text}")
