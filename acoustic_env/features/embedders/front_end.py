"""What weights were trained with, in numbers: a wrong front end is refused by comparing two of these."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from acoustic_env.features.block import Json


@dataclass(frozen=True)
class FrontEnd:
    """What a network's input is made of. Weights trained with one front end give nonsense with another.

    Attributes:
        sample_rate: Hz.
        window: analysis window, samples.
        hop: samples from window to window.
        fft: FFT length.
        mel_bands: mel bands.
        low_hz, high_hz: lowest and highest edge of the mel bands.
        mel_scale: htk, slaney or kaldi.
        spectrum: magnitude or power.
        compression: formula of what follows the mel bands.
        patch_frames: spectrogram frames of one input of the network; None where it takes any number.
        patch_hop: frames from patch to patch; None where there are no patches.
    """

    sample_rate: int
    window: int
    hop: int
    fft: int
    mel_bands: int
    low_hz: float
    high_hz: float
    mel_scale: Literal["htk", "slaney", "kaldi"]
    spectrum: Literal["magnitude", "power"]
    compression: str
    patch_frames: int | None = None
    patch_hop: int | None = None

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
