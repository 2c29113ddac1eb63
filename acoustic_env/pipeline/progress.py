"""How far the job is: one bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, TextIO

from tqdm import tqdm

LOG_EVERY_S: Final = 10.0


class Progress:
    """Counts finished and failed clips and shows them on `stream`.

    Args:
        total: clips to do.
        stream: where to; a bar if it is a terminal, else a line every ten seconds and one at the end.
    """

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self._stream = stream
        self._started = time.monotonic()
        self._logged = self._started
        self._bar = tqdm(total=total, unit="clip", file=stream, dynamic_ncols=True) if stream.isatty() else None

    def __enter__(self) -> Progress:
        if self._bar is None:
            self._line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def add(self, clips: int, failed: int) -> None:
        """Some more clips are in the store (or in its errors)."""
        self.done += clips
        self.failed += failed
        if self._bar is not None:
            if self.failed:
                self._bar.set_postfix(failed=self.failed, refresh=False)
            self._bar.update(clips)
        elif time.monotonic() - self._logged >= LOG_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._logged = time.monotonic()
        rate = self.done / max(self._logged - self._started, 1e-9)
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.done and self.done < self.total else ""
        text = f"extract: {self.done} of {self.total} clips, {self.failed} failed, {rate:.2f} clips/s{left}"
        print(text, file=self._stream, flush=True)
