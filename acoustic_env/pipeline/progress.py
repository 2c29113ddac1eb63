"""How far the job is: one bar on a terminal, plain lines in a log, or JSON objects, one a line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from tqdm import tqdm

LOG_EVERY_S: Final = 10.0


class Progress:
    """Show how many clips are finished and failed on `stream`.

    Args:
        total: clips to do.
        stream: where to; a bar if it is a terminal, else a line every ten seconds and one at the end.
    """

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total = total
        self.done = self.failed = 0
        self._stream = stream
        self._started = time.monotonic()
        self._bar = tqdm(total=total, unit="clip", file=stream, dynamic_ncols=True) if stream.isatty() else None
        if self._bar is None:
            self._line()

    def show(self, done: int, failed: int) -> None:
        """Show that so many clips are in the store (or in its errors)."""
        self.done, self.failed = done, failed
        if self._bar is not None:
            if failed:
                self._bar.set_postfix(failed=failed, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._logged >= LOG_EVERY_S:
            self._line()

    def close(self) -> None:
        """End the bar, or print the last line unless it was the last before."""
        if self._bar is not None:
            self._bar.close()
        elif (self.done, self.failed) != self._shown:
            self._line()

    def _line(self) -> None:
        self._logged, self._shown = time.monotonic(), (self.done, self.failed)
        rate = self.done / max(self._logged - self._started, 1e-9)
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.done and self.done < self.total else ""
        if isinstance(self._stream, JsonLog):
            counts = {"clips": self.total, "done": self.done, "failed": self.failed}
            self._stream.event("progress", fields={**counts, "clips_per_second": round(rate, 3)})
            return
        text = f"extract: {self.done} of {self.total} clips, {self.failed} failed, {rate:.2f} clips/s{left}"
        print(text, file=self._stream, flush=True)


class JsonLog(io.TextIOBase):
    """A text stream that writes each line as a JSON object with `time`, `level`, `event` and `message`.

    >>> log = JsonLog(sys.stdout)
    >>> print("2 clips pending", file=log)  # doctest: +ELLIPSIS
    {"time": "...", "level": "info", "event": "log", "message": "2 clips pending"}

    Args:
        stream: receives the objects.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Write the lines that this text completes."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(None, (line.strip() for line in lines)):
            self.event("log", fields={"message": line})
        return len(text)

    def fileno(self) -> int:
        """Return the file behind it, for what the system writes of a crash."""
        return self._stream.fileno()

    def event(self, event: str, level: str = "info", *, fields: Mapping[str, Any]) -> None:
        """Write one object.

        Args:
            event: what happened: log, progress or error.
            level: as in `logging`, lower case.
            fields: further fields, JSON values.
        """
        time_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time_utc, "level": level, "event": event, **fields})
        print(line, file=self._stream, flush=True)


@contextlib.contextmanager
def json_logs() -> Iterator[None]:
    """Write JSON objects instead of lines to standard error, what Python's `logging` reports included."""
    log = JsonLog(sys.stderr)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: log.event(  # type: ignore[method-assign]
        "log", record.levelname.lower(), fields={"message": record.getMessage(), "logger": record.name}
    )
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(log):
            yield
    finally:
        logging.getLogger().removeHandler(handler)
