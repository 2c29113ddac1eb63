"""How clips are cut into windows, in frames of a block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acoustic_env.config import Pooling, WindowSettings
from acoustic_env.errors import UsageError
from acoustic_env.features.registry import IMPORTED, make_block


class Cut(NamedTuple):
    """How clips are cut into windows and how the probabilities of these are pooled.

    Attributes:
        length, hop: of windows, in frames.
        pooling: of probabilities; None where windows are not pooled.
    """

    length: int
    hop: int
    pooling: Pooling | None

    @classmethod
    def of(cls, settings: WindowSettings, block: str, options: Any) -> Cut:
        """Return settings in seconds in terms of the frames of a block, each rounded to a frame, at least one."""
        seconds = frame_seconds(block, options)
        length, hop = (max(1, round(value / seconds)) for value in (settings.length, settings.hop))
        return cls(length, hop, None if settings.level == "window" else settings.pooling)

    def starts(self, frames: int) -> npt.NDArray[np.int64]:
        """Return the first frame of each window; frames after the last whole window are dropped.

        Raises:
            UsageError: clips are shorter than a window.

        >>> Cut(4, 2, "mean").starts(9).tolist()
        [0, 2, 4]
        """
        if frames < self.length:
            raise UsageError(
                f"windows of {self.length} frames are longer than the clips, which have {frames}; set a shorter "
                "`windows: length` in the recipe"
            )
        return np.arange(0, frames - self.length + 1, self.hop)


def frame_seconds(block: str, options: Any) -> float:
    """Return the seconds from frame to frame of a block."""
    if block in IMPORTED:
        return float(IMPORTED[block].FRAME_S)
    seconds = make_block(block, "fast", options).frame_hop_s
    assert seconds is not None  # of a block with frames
    return seconds
