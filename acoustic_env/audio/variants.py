"""Variants of a signal for augmentation, written as `SIGNAL+TRANSFORM:setting=value:...+...#COPY`.

`raw+pitch:semitones=2:step=0.5+noise:rms_ratio=0.04#2` is the second such copy of `raw`. The name says everything, so
the store's column `signal` does, too. What a transform draws follows from the samples, the copy's number and the
transform's place: the same in every run, batch and worker.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.signals import Engine, Signal
from acoustic_env.audio.transforms import TRANSFORMS, Transform
from acoustic_env.config import from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import parse_yaml

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch

_STEP: Final = re.compile(r"[a-z][a-z0-9_]*(:[a-z][a-z0-9_]*=[^:+#,=\s]+)*")
_COPY: Final = re.compile(r"#[1-9][0-9]*")


class VariantSignal(Signal):
    """A signal after some transforms.

    Args:
        name: as the module describes it.

    Raises:
        UsageError: the name is not of that form, or names an unknown transform or setting.

    >>> VariantSignal("raw+gain:db=3#2").steps
    (Gain(db=3.0),)
    """

    def __init__(self, name: str) -> None:
        whole, mark, copy = name.partition("#")
        base, *steps = whole.split("+")
        if not steps or (mark and not _COPY.fullmatch(mark + copy)) or not all(map(_STEP.fullmatch, steps)):
            msg = f"signal {name!r}: expected SIGNAL+TRANSFORM:setting=value, for example raw+noise:snr_db=20#1"
            raise UsageError(msg)
        self.name = name
        self.needs = (base,)
        self.copy = int(copy or 1)
        self.kinds = tuple(step.partition(":")[0] for step in steps)
        self.steps = tuple(_transform(step, name) for step in steps)

    def parameters(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        """Return the transforms with all that can change a sample."""
        named = zip(self.kinds, self.steps, strict=True)
        return {"copy": self.copy, "steps": [{"transform": kind, **step.parameters()} for kind, step in named]}

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        """Transform each clip; a silent one stays silent."""
        clips = needed[self.needs[0]]
        changed = np.zeros_like(clips)
        for clip, out in zip(clips, changed, strict=True):
            if clip.any():
                drawn: list[int] = [self.copy, zlib.crc32(np.ascontiguousarray(clip, np.float32).tobytes())]
                samples: npt.NDArray[Any] = clip
                for place, step in enumerate(self.steps):
                    samples = step.apply(samples, sample_rate, np.random.default_rng([place, *drawn]))
                out[:] = samples
        return changed


def _transform(step: str, name: str) -> Transform:
    kind, *settings = step.split(":")
    values = dict(setting.split("=") for setting in settings)
    where = f"signal {name!r}, {kind}"
    TRANSFORMS.check(kind)
    return from_mapping(TRANSFORMS.load(kind), {key: parse_yaml(value) for key, value in values.items()}, where)
