"""Signal `original`: each clip as decoded, its level and mean kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from acoustic_env.audio.signals import DECODED, Engine, Signal

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch


class OriginalSignal(Signal):
    """The recording itself; full scale is 1."""

    name = "original"
    needs = (DECODED,)

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return needed[DECODED]
