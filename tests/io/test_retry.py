"""The one retry policy: what a service does that is away for a minute, or refuses a crowd, costs nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from acoustic_env.audio.fetch import open_source
from acoustic_env.io import retry
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.retry import StoreError, retrying
from tests.s3 import Fault, S3Server


class Clock:
    """Time that passes only while somebody sleeps, and a service that is away for a while of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.away = (0.0, 0.0)
        self.failure: Exception = TimeoutError("no answer")

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self) -> str:
        self.now += 0.05
        if self.away[0] <= self.now < self.away[1]:
            raise self.failure
        return "answer"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for name in ("monotonic", "sleep"):
        monkeypatch.setattr(time, name, getattr(made, name))
    random.seed(1)
    return made


@pytest.mark.parametrize(
    "failure", [TimeoutError("no answer"), ConnectionRefusedError("nobody"), ConnectionResetError()]
)
def test_an_outage_of_a_minute_fails_no_call_of_a_service_that_answered_before(
    clock: Clock, failure: Exception
) -> None:
    clock.failure = failure
    for seed in range(50):
        random.seed(seed)
        retrying(clock.ask, "s3://bucket/a", "read")
        clock.away = (clock.now, clock.now + 60)
        assert retrying(clock.ask, "s3://bucket/b", "read") == "answer"
        assert clock.now - clock.away[1] < retry.MAX_PAUSE_S + 1, "the call came back late"


def test_an_outage_that_lasts_ends_the_call_after_two_minutes_and_later_calls_soon(clock: Clock) -> None:
    retrying(clock.ask, "s3://bucket/a", "read")
    clock.away = (clock.now, clock.now + 3600)
    for place, longest in (("s3://bucket/b", retry.GIVE_UP_S + 6), ("s3://bucket/c", 15), ("s3://bucket/d", 15)):
        started = clock.now
        with pytest.raises(StoreError, match="run the same command again"):
            retrying(clock.ask, place, "read")
        assert clock.now - started < longest
    clock.now = clock.away[1]
    assert retrying(clock.ask, "s3://bucket/e", "read") == "answer"


def test_a_wrong_address_is_an_error_after_seconds_except_in_a_worker_of_a_run(clock: Clock) -> None:
    started, clock.away = clock.now, (clock.now, clock.now + 60)
    with pytest.raises(StoreError, match=f"after {retry.TRIES} tries"):
        retrying(clock.ask, "http://nowhere/a", "read")
    assert clock.now - started < 15
    retry._SERVICES.clear()
    retry.expect_answers()
    assert retrying(clock.ask, "http://nowhere/a", "read") == "answer"


def test_a_server_that_refuses_a_burst_of_64_readers_costs_none_of_them_a_clip(s3: S3Server) -> None:
    files = open_filesystem(f"s3://{s3.bucket}")
    for number in range(64):
        files.write(f"{number}.wav", bytes([number]))
    refuse = limited(per_second=15)
    s3.choose = lambda _method, _path, _number: refuse()

    def read(number: int) -> bytes:
        with open_source(f"s3://{s3.bucket}/{number}.wav") as file:
            return file.read()

    with ThreadPoolExecutor(64) as readers:
        assert list(readers.map(read, range(64))) == [bytes([number]) for number in range(64)]
    assert len(s3.done) > 20, "the server refused too little to test anything"


def limited(per_second: int) -> Callable[[], Fault | None]:
    """Refuse what comes faster than so many requests a second."""
    tokens, last = 0.0, time.monotonic()

    def refuse() -> Fault | None:
        nonlocal tokens, last
        now = time.monotonic()
        tokens, last = min(float(per_second) / 4, tokens + (now - last) * per_second), now
        if tokens < 1:
            return "throttle"
        tokens -= 1
        return None

    return refuse
