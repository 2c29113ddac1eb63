"""What weights were trained with, in numbers: a wrong front end is refused by comparing two of these."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from acoustic_env.features.block import Json


@dataclass(frozen=True)
class FrontEnd:
    """What a network's input is made of. Weights trained with one front end give nonsense with another.

    >>> made = FrontEnd(16_000, 400, 160, 512, 64, 125.0, 7_500.0, "htk", "magnitude", "log(x + 0.01)", 96, 96)
    >>> made.differences(dataclasses.replace(made, mel_bands=128))
    ['mel_bands: expected 64, actual 128']
    """

    sample_rate: int  # Hz
    window: int  # analysis window, samples
    hop: int  # samples from window to window
    fft: int  # FFT length
    mel_bands: int  # mel bands
    low_hz: float  # lowest edge of the mel bands
    high_hz: float  # highest edge of the mel bands
    mel_scale: Literal["htk", "slaney", "kaldi"]  # htk, slaney or kaldi
    spectrum: Literal["magnitude", "power"]  # magnitude or power
    compression: str  # formula of what follows the mel bands
    patch_frames: int | None = None  # spectrogram frames of one input of the network; None where it takes any number
    patch_hop: int | None = None  # frames from patch to patch; None where there are no patches

    def differences(self, actual: FrontEnd) -> list[str]:
        """Return one line per setting that differs: "mel_bands: expected 64, actual 128"."""
        return [
            f"{field.name}: expected {getattr(self, field.name)}, actual {getattr(actual, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(actual, field.name)
        ]

    def parameters(self) -> dict[str, Json]:
        """Return the settings as plain data, for a fingerprint."""
        return dataclasses.asdict(self)
