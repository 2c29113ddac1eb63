"""The power spectrogram that CNN14 and mn04 share: frames centered on their place, the ends reflected."""

from __future__ import annotations

from torch import Tensor, fft
from torch.nn import functional


def power_spectrogram(waveforms: Tensor, window: Tensor, hop: int) -> Tensor:
    """Compute |STFT|² as torch.stft(center=True) and torchlibrosa's Spectrogram define it.

    Args:
        waveforms: float32 or float64 [clips, samples], more samples than half a window.
        window: of the same dtype [n], n the FFT's length too.
        hop: samples from frame to frame.

    Returns:
        [clips, 1 + samples // hop, n // 2 + 1].

    >>> import torch
    >>> tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)
    >>> power = power_spectrogram(tone[None], torch.hann_window(512), hop=160)
    >>> tuple(power.shape), int(power[0, 50].argmax()) * 16_000 / 512
    ((1, 101, 257), 1000.0)
    """
    half = len(window) // 2
    padded = functional.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
    spectrum: Tensor = fft.rfft(padded.unfold(1, len(window), hop) * window)
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
