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
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from acoustic_env.memory import reuse_freed_memory

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
_BLOCK: Final = 32  # frames taken at once: the recursive filter within a block is one matrix product
_SAMPLES_AT_ONCE: Final = {"cpu": 1 << 18, "cuda": 1 << 23}


def separate_fast(waveforms: FloatArray, sample_rate: int, device: str = "cpu") -> FloatArray:
    """Compute the foreground of each clip; the background is what is left, `waveforms - foreground`.

    Args:
        waveforms: float32 or float64 [clips, samples].
        sample_rate: in Hz.
        device: "cpu" or "cuda".

    Returns:
        Foreground, the same shape and dtype. Where the gate is undefined, zero over zero in a chunk of digital silence,
        nothing stands above the floor and the foreground is zero.

    Raises:
        ValueError: a sample rate too low or too high for the mask's smoothing, as in the library.

    >>> t = np.arange(32_000) / 16_000
    >>> clip = 0.01 * np.random.default_rng(23).normal(size=t.size)
    >>> clip[16_000:17_600] += np.sin(2 * np.pi * 1_000 * t[:1_600])
    >>> foreground = separate_fast(clip[None], 16_000)[0]
    >>> power = np.square(foreground)
    >>> foreground.shape, round(float(power[16_000:17_600].sum() / power.sum()), 2)
    ((32000,), 1.0)
    """
    clips, samples = waveforms.shape
    reuse_freed_memory()
    foreground = np.zeros_like(waveforms)
    step = max(1, _SAMPLES_AT_ONCE[torch.device(device).type] // max(samples, 1))
    for first in range(0, clips, step):
        batch = torch.from_numpy(waveforms[first : first + step]).to(device, torch.float64)
        for start in range(0, samples, CHUNK):
            end = start + CHUNK if samples > CHUNK else samples
            gated = _gate_chunk(batch, start, end, sample_rate)
            foreground[first : first + step, start:end] = gated.cpu().numpy()
    return foreground


def _gate_chunk(batch: torch.Tensor, start: int, end: int, sample_rate: int) -> torch.Tensor:
    """Gate the samples start to end, with PADDING samples of context on both sides; float64 [clips, end - start]."""
    samples = batch.shape[1]
    origin, stop = start - PADDING, end + PADDING
    frames = (stop - origin) // HOP + 1  # frame m covers the N_FFT samples around origin + m * HOP
    left, right = max(origin, 0), min(stop, samples)
    first = max(0, (left - origin - N_FFT // 2) // HOP + 1)
    last = min(frames - 1, -((origin - right - N_FFT // 2) // HOP) - 1)
    base = origin + first * HOP - N_FFT // 2  # position in the clip of the first frame's first sample
    length = (last - first) * HOP + N_FFT
    context = pad(batch[:, left:right], (left - base, max(0, base + length - right)))[:, :length]

    smoothing = _NoiseFloor(sample_rate, batch.device)
    spectrum, magnitude, forward = _analyze(context, smoothing, silent_before=first)
    mask = _mask(magnitude, forward, smoothing, silent_after=frames - 1 - last, sample_rate=sample_rate)
    gated = _synthesize(spectrum, mask, sample_rate)
    gated[~torch.isfinite(mask).flatten(1).all(dim=1)] = 0
    return gated[:, start - base : min(end, samples) - base]


class _NoiseFloor:
    """The filter y[m] = b x[m] + (1 - b) y[m-1] over a block of frames at a time.

    Attributes:
        b: from the time constant, as noisereduce has it.
    """

    def __init__(self, sample_rate: int, device: torch.device) -> None:
        t_frames = TIME_CONSTANT_S * sample_rate / HOP
        self.b = (math.sqrt(1 + 4 * t_frames**2) - 1) / (2 * t_frames**2)
        lag = torch.arange(_BLOCK, dtype=torch.float64, device=device)[:, None]
        self._response = self.b * torch.tril((1 - self.b) ** (lag - lag.T).clamp(min=0))
        self._decay = (1 - self.b) ** (lag + 1)

    def forward(self, block: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Compute y of a block [clips, up to _BLOCK, bins] after the frame `state` [clips, 1, bins]."""
        size = block.shape[1]
        return (self._response[:size, :size] @ block).add_(self._decay[:size] * state)

    def backward(self, block: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Compute the same, backward in time: `state` is the frame after the block."""
        size = block.shape[1]
        return (self._response[:size, :size].T @ block).add_(self._decay[:size].flip(0) * state)

    def turn(self, silent_after: int) -> float:
        """Compute the gain from the last frame of the forward pass to the state in which the backward pass reaches it.

        `scipy.signal.filtfilt` turns round at the end of the chunk, after `silent_after` frames of silence, in the
        steady state of the frame it finds there.
        """
        gain = (1 - self.b) ** silent_after
        for frame in range(silent_after, 0, -1):
            gain = self.b * (1 - self.b) ** frame + (1 - self.b) * gain
        return gain


def _analyze(
    context: torch.Tensor, smoothing: _NoiseFloor, silent_before: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the spectrum, its magnitude and that smoothed forwards in time; each [clips, frames, bins].

    `silent_before` frames of silence leave the filter at rest; without them it starts in the steady state of its first
    frame, as `filtfilt` does.
    """
    window = torch.hann_window(N_FFT, dtype=context.dtype, device=context.device)
    framed = context.unfold(1, N_FFT, HOP)
    shape = (len(context), framed.shape[1], N_FFT // 2 + 1)
    spectrum = torch.empty(shape, dtype=torch.complex128, device=context.device)
    magnitude = torch.empty(shape, dtype=torch.float64, device=context.device)
    forward = torch.empty_like(magnitude)
    state = torch.zeros_like(magnitude[:, :1])
    for begin in range(0, shape[1], _BLOCK):
        block = slice(begin, begin + _BLOCK)
        spectrum[:, block] = torch.fft.rfft(framed[:, block] * window)
        magnitude[:, block] = _magnitude(spectrum[:, block])
        if begin == 0 and silent_before == 0:
            state = magnitude[:, :1]
        forward[:, block] = smoothing.forward(magnitude[:, block], state)
        state = forward[:, block][:, -1:]
    return spectrum, magnitude, forward


def _mask(
    magnitude: torch.Tensor, forward: torch.Tensor, smoothing: _NoiseFloor, silent_after: int, sample_rate: int
) -> torch.Tensor:
    """Overwrite and return `forward`: how far each cell stands above the floor, 0 to 1, smoothed over frequency."""
    reach, _ = smoothing_reach(sample_rate)
    count = magnitude.shape[1]
    state = smoothing.turn(silent_after) * forward[:, -1:]
    for begin in reversed(range(0, count, _BLOCK)):
        block = slice(begin, begin + _BLOCK)
        floor = smoothing.backward(forward[:, block], state)
        state = floor[:, :1].clone()
        above = torch.div(magnitude[:, block], floor, out=floor).sub_(1 + THRESHOLD).mul_(SLOPE)
        forward[:, block] = _triangle(above.sigmoid_(), reach)
    return forward


def _synthesize(spectrum: torch.Tensor, mask: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Compute the samples [clips, samples] of the spectrum times the mask smoothed over time.

    Frames of padding alone have a mask of 1e-13; beyond the first and last frame it counts as zero.
    """
    window = torch.hann_window(N_FFT, dtype=mask.dtype, device=mask.device) / _OVERLAP_GAIN
    _, reach = smoothing_reach(sample_rate)
    offset = torch.arange(_BLOCK + 2 * reach, device=mask.device) - torch.arange(_BLOCK, device=mask.device)[:, None]
    weights = (1 + reach - (offset - reach).abs()).clamp(min=0).to(mask.dtype) / (1 + reach) ** 2
    clips, count, _ = mask.shape
    padded = pad(mask, (0, 0, reach, reach))
    parts = N_FFT // HOP
    samples = mask.new_zeros((clips, count + parts - 1, HOP))
    for begin in range(0, count, _BLOCK):
        size = min(_BLOCK, count - begin)
        smooth = weights[:size, : size + 2 * reach] @ padded[:, begin : begin + size + 2 * reach]
        frames = torch.fft.irfft(spectrum[:, begin : begin + size] * smooth, n=N_FFT).mul_(window)
        pieces = frames.view(clips, size, parts, HOP)
        for part in range(parts):
            samples[:, begin + part : begin + part + size] += pieces[:, :, part]
    return samples.view(clips, -1)


@lru_cache
def smoothing_reach(sample_rate: int) -> tuple[int, int]:
    """Return how many bins and frames the triangle that smooths the mask reaches to each side.

    Raises:
        ValueError: less than one of either.

    >>> smoothing_reach(16_000)
    (16, 3)
    >>> smoothing_reach(8_000)
    (32, 1)
    """
    bins = int(SMOOTH_HZ / (sample_rate / (N_FFT / 2)))
    frames = int(SMOOTH_MS / ((HOP / sample_rate) * 1000))
    if bins < 1 or frames < 1:
        lowest, highest = 1000 * HOP // SMOOTH_MS, SMOOTH_HZ * N_FFT // 2
        raise ValueError(f"separation needs a sample rate from {lowest} to {highest} Hz, not {sample_rate}")
    return (0, 0) if bins == frames == 1 else (bins, frames)


def _triangle(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Average along the last axis by weights that fall linearly to zero beyond `reach`: two running means."""
    width = reach + 1
    sums = pad(x, (width, reach)).cumsum(-1)
    once = sums[..., width:] - sums[..., :-width]
    sums = pad(once, (1, 0)).cumsum(-1)
    return (sums[..., width:] - sums[..., :-width]).div_(width**2)


def _magnitude(x: torch.Tensor) -> torch.Tensor:
    """Compute the modulus of complex numbers, on a CPU by NumPy, whose modulus is the faster one."""
    return torch.from_numpy(np.abs(x.numpy())) if x.device.type == "cpu" else x.abs()
