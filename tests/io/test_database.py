"""The temporary database: what is too large for its memory or for the disk."""

from __future__ import annotations

import resource
import signal

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.errors import UsageError
from acoustic_env.io import database
from acoustic_env.io.database import Database

ROWS = pa.table({"n": np.random.default_rng(0).random(500_000)})


def test_a_statement_that_needs_more_memory_than_is_set_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.SETTINGS, "memory_limit", "1MB")
    made = Database()
    made.sql("CREATE TABLE kept AS FROM rows", rows=ROWS)
    assert made.count("kept") == 500_000
    assert made.sql("SELECT current_setting('memory_limit') AS most")["most"][0].as_py().endswith("GiB")


def test_a_full_disk_is_an_error_that_says_what_to_do() -> None:
    made, before = Database(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        with pytest.raises(UsageError, match="set TMPDIR to a folder with more room"):
            made.sql("CREATE TABLE kept AS FROM rows", rows=ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
