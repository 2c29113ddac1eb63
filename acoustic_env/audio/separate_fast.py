"""Foreground of many clips at once: the spectral gate of noisereduce as batched array code.

The definition is noisereduce 3.0.3, `reduce_noise(y, sr)` with every other argument at its default: a short-time
Fourier transform, a noise floor per bin (the magnitude, smoothed in time by a zero-phase one-pole filter), a sigmoid
mask of how far each cell stands above its floor, the mask smoothed by a triangle in time and frequency, the inverse
transform. The library pads each clip with 30,000 zeros on both sides and works through them; here frames that hold
nothing but padding are left out, and the decay of the noise floor over them is closed form. Arithmetic is double
precision, as in the library, so that a float32 result is the same to the last digit but for ties in rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

FloatArray = TypeVar("FloatArray", npt.NDArray[np.float32], npt.NDArray[np.float64])

N_FFT: Final = 1024
HOP: Final = 256
CHUNK: Final = 600_000  # longer clips are gated in chunks of so many samples, each with PADDING of its surroundings
PADDING: Final = 30_000
TIME_CONSTANT_S: Final = 2.0
SMOOTH_HZ: Final = 500
SMOOTH_MS: Final = 50
THRESHOLD: Final = 2.0  # multiples of the floor above it at which the mask is one half
SLOPE: Final = 10.0
_OVERLAP_GAIN: Final = 1.5  # sum of the squared Hann windows that overlap at a sample
_BLOCK: Final = 32  # frames the recursive filter takes at once
_SAMPLES_AT_ONCE: Final = {"cpu": 1 << 18, "cuda": 1 << 23}


def separate_fast(waveforms: FloatArray, sample_rate: int, device: str = "cpu") -> FloatArray:
    """Foreground of each clip; the background is what is left, `waveforms - foreground`.

    Args:
        waveforms: float32 or float64 [clips, samples].
        sample_rate: in Hz.
        device: "cpu" or "cuda".

    Returns:
        Foreground, the same shape and dtype. A silent clip's is silent; as in the library, a clip with a frequency
        bin that is zero throughout has an undefined noise floor and comes back as NaN.

    Raises:
        ValueError: a sample rate too low or too high for the mask's smoothing, as in the library.
    """
    import torch

    clips, samples = waveforms.shape
    foreground = np.zeros_like(waveforms)
    step = max(1, _SAMPLES_AT_ONCE[torch.device(device).type] // max(samples, 1))
    for first in range(0, clips, step):
        batch = torch.from_numpy(waveforms[first : first + step]).to(device, torch.float64)
        for start in range(0, samples, CHUNK):
            end = start + CHUNK if samples > CHUNK else samples
            gated = _gate_chunk(batch, start, end, sample_rate)
            foreground[first : first + step, start:end] = gated.cpu().numpy()
    foreground[~waveforms.any(axis=1)] = 0
    return foreground


def _gate_chunk(batch: torch.Tensor, start: int, end: int, sample_rate: int) -> torch.Tensor:
    """The gate over samples start to end, heard with PADDING samples on both sides; float64 [clips, end - start]."""
    import torch
    from torch.nn.functional import pad

    samples = batch.shape[1]
    origin, stop = start - PADDING, end + PADDING
    frames = (stop - origin) // HOP + 1  # frame m covers the N_FFT samples around origin + m * HOP
    left, right = max(origin, 0), min(stop, samples)
    first = max(0, (left - origin - N_FFT // 2) // HOP + 1)
    last = min(frames - 1, -((origin - right - N_FFT // 2) // HOP) - 1)
    base = origin + first * HOP - N_FFT // 2  # position in the clip of the first frame's first sample
    length = (last - first) * HOP + N_FFT
    heard = pad(batch[:, left:right], (left - base, max(0, base + length - right)))[:, :length]

    window = torch.hann_window(N_FFT, dtype=torch.float64, device=batch.device)
    spectrum = torch.fft.rfft(heard.unfold(1, N_FFT, HOP) * window)  # [clips, frames, bins]
    magnitude = spectrum.abs()
    floor = _noise_floor(magnitude, first, frames - 1 - last, sample_rate)
    mask = torch.sigmoid((magnitude / floor - (1 + THRESHOLD)) * SLOPE)
    mask[~(floor > 0).flatten(1).all(dim=1)] = math.nan
    spectrum *= _smooth_mask(mask, sample_rate)
    gated = _overlap_add(torch.fft.irfft(spectrum, n=N_FFT) * window) / _OVERLAP_GAIN
    stop = min(end, samples)
    return gated[:, start - base : stop - base]


def _noise_floor(magnitude: torch.Tensor, silent_before: int, silent_after: int, sample_rate: int) -> torch.Tensor:
    """Magnitude [clips, frames, bins] smoothed forwards and backwards in time.

    What `scipy.signal.filtfilt` gives for the whole padded chunk, which has so many frames of silence before and after
    these: it starts each pass in the steady state of the first frame it meets.
    """
    import torch

    t_frames = TIME_CONSTANT_S * sample_rate / HOP
    b = (math.sqrt(1 + 4 * t_frames**2) - 1) / (2 * t_frames**2)
    at_rest = magnitude[:, :1] if silent_before == 0 else torch.zeros_like(magnitude[:, :1])
    forward = _one_pole(magnitude, b, at_rest)
    gain = (1 - b) ** silent_after  # of the filter's state where the chunk ends, going backwards from there
    for frame in range(silent_after - 1, 0, -1):
        gain = b * (1 - b) ** frame + (1 - b) * gain
    return _one_pole(forward.flip(1), b, state=gain * forward[:, -1:]).flip(1)


def _one_pole(x: torch.Tensor, b: float, state: torch.Tensor) -> torch.Tensor:
    """y[m] = b x[m] + (1 - b) y[m-1] along frames of [clips, frames, bins]; state is y[-1], [clips, 1, bins]."""
    import torch

    lag = torch.arange(_BLOCK, dtype=x.dtype, device=x.device)
    response = b * torch.tril((1 - b) ** (lag[:, None] - lag).clamp(min=0))
    decay = (1 - b) ** (lag[:, None] + 1)
    y = torch.empty_like(x)
    for begin in range(0, x.shape[1], _BLOCK):
        block = x[:, begin : begin + _BLOCK]
        size = block.shape[1]
        y[:, begin : begin + size] = response[:size, :size] @ block + decay[:size] * state
        state = y[:, begin + size - 1 : begin + size]
    return y


def _smooth_mask(mask: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """The mask [clips, frames, bins] smoothed by a triangle of SMOOTH_HZ by SMOOTH_MS to each side, zero outside.

    A frame of padding alone has a mask of 1e-13; it counts as zero here.
    """
    by_frequency, by_time = _smoothing_reach(sample_rate)
    if by_frequency == 1 and by_time == 1:
        return mask
    mask = _triangle(mask, by_frequency)
    return _triangle(mask.transpose(1, 2), by_time).transpose(1, 2)


@lru_cache
def _smoothing_reach(sample_rate: int) -> tuple[int, int]:
    """Bins and frames the triangle reaches to each side.

    Raises:
        ValueError: less than one of either.
    """
    bins = int(SMOOTH_HZ / (sample_rate / (N_FFT / 2)))
    frames = int(SMOOTH_MS / ((HOP / sample_rate) * 1000))
    if bins < 1 or frames < 1:
        msg = f"separation needs a sample rate from {1000 * HOP // SMOOTH_MS} to {SMOOTH_HZ * N_FFT // 2} Hz, not {sample_rate}"
        raise ValueError(msg)
    return bins, frames


def _triangle(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Weighted mean along the last axis, weights falling linearly to zero beyond `reach`: a running mean of a running mean."""
    from torch.nn.functional import pad

    width = reach + 1
    sums = pad(x, (width, reach)).cumsum(-1)
    once = sums[..., width:] - sums[..., :-width]
    sums = pad(once, (1, 0)).cumsum(-1)
    return (sums[..., width:] - sums[..., :-width]) / width**2


def _overlap_add(frames: torch.Tensor) -> torch.Tensor:
    """Sum of frames [clips, frames, N_FFT] laid HOP samples apart; [clips, samples]."""
    clips, count, size = frames.shape
    parts = size // HOP
    pieces = frames.view(clips, count, parts, HOP)
    out = frames.new_zeros((clips, count + parts - 1, HOP))
    for part in range(parts):
        out[:, part : part + count] += pieces[:, :, part]
    return out.view(clips, -1)
