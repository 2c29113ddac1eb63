"""Signal `original`: each clip as decoded, its level and mean kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from acoustic_env.audio.signals import DECODED, Engine, Signal

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch


class OriginalSignal(Signal):
    """The recording itself; full scale is 1.

    >>> import numpy as np
    >>> clips = np.array([[0.5, 0.75]], np.float32)
    >>> OriginalSignal().compute({DECODED: clips}, 16_000, "fast").tolist()
    [[0.5, 0.75]]
    """

    name = "original"
    needs = (DECODED,)

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return needed[DECODED]
