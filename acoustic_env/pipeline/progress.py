"""How far the job is: one bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

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
        text = f"extract: {self.done} of {self.total} clips, {self.failed} failed, {rate:.2f} clips/s{left}"
        print(text, file=self._stream, flush=True)
