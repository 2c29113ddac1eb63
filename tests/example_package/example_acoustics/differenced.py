"""Signal `differenced`: the change of the background from sample to sample, which drops slow rumble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.signals import Engine, Signal

Batch = npt.NDArray[Any]


class DifferencedSignal(Signal):
    """First difference of `bg`, which is computed once for all that need it."""

    name = "differenced"
    version = 1
    needs = ("bg",)

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return np.diff(needed["bg"], axis=1, prepend=0).astype(needed["bg"].dtype)
