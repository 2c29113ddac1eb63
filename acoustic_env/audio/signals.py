"""Signals: what features are computed on, a registry of versioned transforms of a clip.

A signal is one class in one file and one line of `SIGNALS`, or an entry point in the group `acoustic_env.signals` of
another installed package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from acoustic_env.config import Recipe

    Batch = TypeVar("Batch", npt.NDArray[np.float32], npt.NDArray[np.float64])  # [clips, samples]

Engine = Literal["fast", "reference"]  # batched array code, or the published libraries

VARIANT: Final = "+"  # between a signal and the transforms of a variant of it
DECODED: Final = "decoded"  # what every signal starts from: clips as decoded and resampled


class Signal(ABC):
    """One transform of a batch of clips.

    Attributes:
        name: as recipes, `--signals` and the column `signal` of the store have it.
        title: as captions name it, such as "foreground"; empty for the name.
        version: raise it whenever the samples change for the same input and parameters.
        needs: signals it is computed from, each computed once for all that need it, or `DECODED`.

    >>> signal = make_signal("bg")
    >>> signal.name, signal.title, signal.needs
    ('bg', 'background', ('raw', 'fg'))
    """

    name: str
    title: ClassVar[str] = ""
    version: ClassVar[int] = 1
    needs: tuple[str, ...] = ("raw",)

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
        "original": "acoustic_env.audio.normalize:OriginalSignal",
    },
)


def make_signal(name: str) -> Signal:
    """Return a registered signal, or a variant of one (`audio.variants`).

    Raises:
        UsageError: a name that is neither.

    >>> make_signal("raw+noise:snr_db=20").needs
    ('raw',)
    """
    if VARIANT not in name:
        return SIGNALS.load(name)()
    from acoustic_env.audio.variants import VariantSignal

    signal = VariantSignal(name)
    SIGNALS.check(signal.needs[0])
    return signal


def check_signals(recipe: Recipe, where: str) -> None:
    """Check a recipe's signals and variants, which its settings keep as text: `config` knows no signal.

    Raises:
        UsageError: a name that is neither registered nor a variant's; says where in `where`, the recipe's file.

    >>> from acoustic_env.config import Recipe
    >>> check_signals(Recipe(name="r", signals=("raw",), variants=("noise:snr_db=20",)), "r.yaml")
    """
    for field in ("signals", "variants"):
        for number, name in enumerate(getattr(recipe, field)):
            try:
                make_signal(name if field == "signals" else f"raw{VARIANT}{name}")
            except UsageError as error:
                raise UsageError(f"{where}: {field}[{number}]: {error}") from error


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Return the named signals in the registry's order, then variants by name, each once.

    Raises:
        UsageError: a name that is neither registered nor a variant's.

    >>> in_order(["bg+gain", "bg", "raw"])
    ('raw', 'bg', 'bg+gain')
    """
    for name in names:
        make_signal(name)
    return tuple(sorted(set(names), key=signal_order))


def signal_order(name: str) -> tuple[int, str]:
    """Return a sort key: the registry's order, then others by name.

    >>> sorted(["raw+gain", "bg", "raw"], key=signal_order)
    ['raw', 'bg', 'raw+gain']
    """
    names = SIGNALS.names()
    return (names.index(name) if name in names else len(names), name)


def with_needed(names: Collection[str]) -> dict[str, Signal]:
    """Return the named signals and all that they need, each after what it needs.

    >>> list(with_needed(["bg"]))
    ['raw', 'fg', 'bg']
    """
    found: dict[str, Signal] = {}
    for name in names:
        if name != DECODED and name not in found:
            signal = make_signal(name)
            found |= {need: made for need, made in with_needed(signal.needs).items() if need not in found}
            found[name] = signal
    return found
