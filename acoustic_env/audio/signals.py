"""Signals: what features are computed on, a registry of versioned transforms of a clip.

A signal is one class in one file and one line of `SIGNALS`, or an entry point in the group `acoustic_env.signals` of
another installed package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from acoustic_env.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Batch = TypeVar("Batch", npt.NDArray[np.float32], npt.NDArray[np.float64])  # [clips, samples]

Engine = Literal["fast", "reference"]  # batched array code, or the published libraries

DECODED: Final = "decoded"  # what every signal starts from: clips as decoded and resampled


class Signal(ABC):
    """One transform of a batch of clips.

    Attributes:
        name: as recipes, `--signals` and the column `signal` of the store have it.
        version: raise it whenever the samples change for the same input and parameters.
        needs: signals it is computed from, each computed once for all that need it, or `DECODED`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("raw",)

    def parameters(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        """Return what besides its version and the signals it needs can change a sample; part of fingerprints."""
        return {}

    def settings(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        """Return this signal's part of the audio settings that fingerprints cover."""
        return {f"signal:{self.name}": {"version": self.version, **self.parameters(sample_rate, engine)}}

    @abstractmethod
    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        """Return the signal of each clip; one clip's samples do not depend on the other clips of the batch.

        Args:
            needed: name of each signal in `needs` -> float32 (or float64, for parity tests) [clips, samples], all of
                one length; not to be changed in place.
            sample_rate: Hz.
            engine: fast or reference.

        Returns:
            The same shape and dtype.
        """


SIGNALS: Final[Registry[type[Signal]]] = Registry(
    "signals",
    "signal",
    {
        "raw": "acoustic_env.audio.normalize:RawSignal",
        "fg": "acoustic_env.audio.separate:ForegroundSignal",
        "bg": "acoustic_env.audio.separate:BackgroundSignal",
    },
)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Return the named signals in the registry's order, each once.

    Raises:
        UsageError: a name that is not registered.

    >>> in_order(["bg", "raw"])
    ('raw', 'bg')
    """
    for name in names:
        SIGNALS.check(name)
    return tuple(name for name in SIGNALS.names() if name in names)


def with_needed(names: Collection[str]) -> dict[str, Signal]:
    """Return the named signals and all that they need, each after what it needs.

    >>> list(with_needed(["bg"]))
    ['raw', 'fg', 'bg']
    """
    found: dict[str, Signal] = {}
    for name in names:
        if name != DECODED and name not in found:
            signal = SIGNALS.load(name)()
            found |= {need: made for need, made in with_needed(signal.needs).items() if need not in found}
            found[name] = signal
    return found
