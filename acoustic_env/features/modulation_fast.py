"""Modulation power spectrum of many clips at once: soundsig's definition as matrix products.

The definition is soundsig 3.1.1, `BioSound(wave, fs).mpsCalc(window=1, Norm=True)`: a spectrogram of Gaussian windows,
1,000 frames a second, in dB; everything 50 dB below its maximum clipped; mean 0, standard deviation 1; edges padded
with the minimum; the power of the two-dimensional Fourier transform of Gaussian windows of one second, averaged over
windows a sixth apart. Kept of it: spectral modulation >= 0 and temporal modulation up to 100 Hz, the mean of both
directions of time.

Four things make it fast and change nothing:

1. The transform over frequency comes first, once per frame, not once per window that holds the frame.
2. The mean of both directions, with a and b the temporal transforms of the real and imaginary part of that:
   (|a + ib|^2 + |a* + ib*|^2) / 2 = |a|^2 + |b|^2. So real and imaginary parts are so many real rows.
3. A window of one second is six blocks of a sixth (and a few samples at its ends), and each block lies in six windows.
   Window and sinusoids up to 100 Hz, cut to one block, span few dimensions: the block is reduced to its coefficients
   in that span once (`Basis`), and every window is made of the coefficients of its blocks.
4. The window is symmetric: cosines see sums of mirrored blocks, sines differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

FloatArray = TypeVar("FloatArray", npt.NDArray[np.float32], npt.NDArray[np.float64])
Matrix = npt.NDArray[np.float64]

FRAME_RATE: Final = 1000  # spectrogram frames per second asked for; the hop is rounded to samples
BANDWIDTH_HZ: Final = 50.0
WINDOW_STDS: Final = 6  # standard deviations that a Gaussian window is long
MAX_FREQUENCY_HZ: Final = 10_000
DYNAMIC_RANGE_DB: Final = 50.0
WINDOW_S: Final = 1.0
MAX_TEMPORAL_HZ: Final = 100.0
_BLOCKS: Final = 3  # blocks on each side of a window's middle
_BASIS_ERROR: Final = 1e-9  # largest singular value left out, relative to the largest
_SAMPLES_AT_ONCE: Final = {"cpu": 1, "cuda": 1 << 21}


@dataclass(frozen=True)
class Axes:
    """Sizes that follow from the sample rate.

    Attributes:
        hop: samples from frame to frame.
        window: samples of the spectrogram's window, odd.
        n_fft: length of its transform.
        bands: frequency bands kept.
        band_hz: their spacing.
        half: frames on each side of the middle of a modulation window.
        shift: frames from one modulation window to the next.
        spectral: cycles/kHz of the rows.
        temporal: Hz of the columns.
    """

    hop: int
    window: int
    n_fft: int
    bands: int
    band_hz: float
    half: int
    shift: int
    spectral: Matrix
    temporal: Matrix


@lru_cache
def modulation_axes(sample_rate: int) -> Axes:
    """Sizes and axes of the modulation spectrum at a sample rate."""
    from scipy.fftpack import next_fast_len

    window = int(sample_rate * WINDOW_STDS / (2 * np.pi * BANDWIDTH_HZ)) | 1
    n_fft = int(next_fast_len(window))
    frequencies = np.fft.fftfreq(n_fft, 1 / sample_rate)
    bands = int(np.count_nonzero((frequencies >= 0) & (frequencies <= MAX_FREQUENCY_HZ)))
    hop = round(sample_rate / FRAME_RATE)
    seconds = np.arange(2 * FRAME_RATE) * float(hop) / sample_rate
    length = int(np.flatnonzero(seconds >= WINDOW_S)[0]) | 1
    spectral = np.fft.fftfreq(bands, sample_rate / n_fft) * 1000
    temporal = np.fft.fftfreq(length, seconds[1])
    return Axes(
        hop=hop,
        window=window,
        n_fft=n_fft,
        bands=bands,
        band_hz=sample_rate / n_fft,
        half=length // 2,
        shift=length // 2 // 3,
        spectral=spectral[: (bands + 1) // 2],
        temporal=temporal[: length // 2 + 1][temporal[: length // 2 + 1] <= MAX_TEMPORAL_HZ],
    )


def modulation_spectrum(waveforms: FloatArray, sample_rate: int, device: str = "cpu") -> FloatArray:
    """Modulation power spectrum of each clip.

    Args:
        waveforms: float32 or float64 [clips, samples], more than one second of them.
        sample_rate: in Hz.
        device: "cpu" or "cuda".

    Returns:
        [clips, spectral, temporal] in the dtype given, linear power; axes from `modulation_axes` (80 x 101 at
        16 kHz). NaN where the spectrogram is undefined: a silent clip.

    Raises:
        ValueError: clips of less than a second of frames.
    """
    import torch

    axes = modulation_axes(sample_rate)
    clips, samples = waveforms.shape
    if (samples - 1) // axes.hop + 1 <= 2 * axes.half:
        msg = f"a modulation spectrum needs more than {2 * axes.half * axes.hop} samples, not {samples}; pad the clips"
        raise ValueError(msg)
    spectra = np.empty((clips, len(axes.spectral), len(axes.temporal)), waveforms.dtype)
    step = max(1, _SAMPLES_AT_ONCE[torch.device(device).type] // samples)
    for first in range(0, clips, step):
        batch = torch.from_numpy(waveforms[first : first + step]).to(device)
        rows, minimum = _spectral_transform(_normalise(_gaussian_spectrogram(batch, axes)))
        spectra[first : first + step] = _temporal_power(rows, minimum, axes).cpu().numpy()
    return spectra


def _gaussian_spectrogram(waveforms: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Level in dB of each frame and band, up to a constant; [clips, frames, bands]."""
    import torch
    from torch.nn.functional import pad

    lag = torch.arange(axes.window, device=waveforms.device) - axes.window // 2
    window = torch.exp(-(lag.double() ** 2) / (2 * (axes.window / WINDOW_STDS) ** 2))
    window = pad(window, (0, axes.n_fft - axes.window)).to(waveforms.dtype)
    side = axes.window // 2
    padded = pad(waveforms, (side, side + axes.n_fft - axes.window))
    spectrum = torch.fft.rfft(padded.unfold(1, axes.n_fft, axes.hop) * window)[..., : axes.bands]
    power = spectrum.real**2 + spectrum.imag**2
    return 10 * torch.log10(power)


def _normalise(level: torch.Tensor) -> torch.Tensor:
    """Clipped DYNAMIC_RANGE_DB below the maximum, mean 0, standard deviation 1, over all of a clip."""
    flat = level.flatten(1)
    floor = flat.amax(dim=1) - DYNAMIC_RANGE_DB
    flat = flat.maximum(floor[:, None])
    flat -= flat.mean(dim=1, keepdim=True)
    flat /= flat.square().mean(dim=1, keepdim=True).sqrt()
    return flat.view(level.shape)


def _spectral_transform(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fourier transform over bands: rows [clips, frames, 2 * spectral] (real, imaginary), and the minimum [clips]."""
    import torch

    bands = level.shape[2]
    kept = torch.view_as_real(torch.fft.rfft(level))[:, :, : (bands + 1) // 2]
    return kept.flatten(2), level.flatten(1).amin(dim=1)


def _temporal_power(rows: torch.Tensor, minimum: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Mean over windows of the power of each row's windowed Fourier transform; [clips, spectral, temporal]."""
    import torch

    clips, frames, count = rows.shape
    padded = rows.new_zeros((clips, frames + 2 * axes.half, count))
    padded[:, :, 0] = axes.bands * minimum[:, None]  # the transform of a frame that is all minimum
    padded[:, axes.half : axes.half + frames] = rows
    windows = (frames - 1) // axes.shift
    basis = _basis(axes.half, axes.shift, len(axes.temporal))
    total = rows.new_zeros((clips, len(axes.temporal), count))
    to = {"dtype": rows.dtype, "device": rows.device}
    span = torch.from_numpy(basis.span).to(**to)
    for clip in range(clips):
        begin = axes.half - 2 * axes.shift - 1
        blocks = padded[clip, begin:].unfold(0, axes.shift + 1, axes.shift)[: windows + 2 * _BLOCKS - 1]
        coefficients = _product(span, blocks.transpose(1, 2))  # [blocks, dimensions, rows]
        for sign, weights in ((1, basis.cosine), (-1, basis.sine)):
            mirrored = _mirror(coefficients, padded[clip], basis, axes, windows, sign)
            transform = _product(torch.from_numpy(weights).to(**to), mirrored)
            total[clip] += transform.square_().sum(dim=0)
    power = total.view(clips, len(axes.temporal), count // 2, 2).sum(dim=3) / windows
    return power.transpose(1, 2)


def _mirror(
    coefficients: torch.Tensor, padded: torch.Tensor, basis: Basis, axes: Axes, windows: int, sign: int
) -> torch.Tensor:
    """What a window's cosines (sign 1) or sines (-1) are made of; [windows, features, rows]."""
    import torch

    even, odd = coefficients[:, : basis.even], coefficients[:, basis.even :]
    parts = []
    for block in range(_BLOCKS):
        after, before = _BLOCKS + block, _BLOCKS - 1 - block
        parts.append(even[after : after + windows] + sign * even[before : before + windows])
        parts.append(odd[after : after + windows] - sign * odd[before : before + windows])
    middles = axes.half + axes.shift - 1
    for offset in basis.ends:
        after, before = (padded[middles + side * offset :: axes.shift][:windows, None] for side in (1, -1))
        parts.append(after + sign * before)
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Basis:
    """How windows are made of blocks.

    Attributes:
        span: [dimensions, shift + 1], orthonormal rows: first `even` that are even about the block's middle, then odd.
        even: how many are even.
        ends: distances from the middle of the samples beyond the blocks (the first is shared with the last block).
        cosine, sine: [temporal, features], weights of the features of `_mirror`.
    """

    span: Matrix
    even: int
    ends: tuple[int, ...]
    cosine: Matrix
    sine: Matrix


@lru_cache
def _basis(half: int, shift: int, columns: int) -> Basis:
    length = 2 * half + 1
    std = length / WINDOW_STDS
    position = np.arange(half + 1)
    window = np.exp(-(position**2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    angle = 2 * np.pi / length * np.outer(np.arange(columns), position)
    waves = {"cosine": window * np.cos(angle), "sine": window * np.sin(angle)}  # [columns, half + 1]

    share = np.ones(shift + 1)
    share[[0, -1]] = 0.5  # neighbouring blocks share the sample between them
    blocks = {
        name: [wave[:, b * shift :][:, : shift + 1] * share for b in range(_BLOCKS)] for name, wave in waves.items()
    }
    functions = np.concatenate([block for name in waves for block in blocks[name]])
    spans = []
    for sign in (1, -1):
        singular = np.linalg.svd((functions + sign * functions[:, ::-1]) / 2, full_matrices=False)
        spans.append(singular.Vh[singular.S > _BASIS_ERROR * singular.S[0]])
    even, odd = spans
    ends = tuple(range(_BLOCKS * shift, half + 1))
    end_share = np.where(np.array(ends) == _BLOCKS * shift, 0.5, 1.0)
    weights = {
        name: np.concatenate(
            [block @ part.T for block in blocks[name] for part in (even, odd)] + [wave[:, list(ends)] * end_share],
            axis=1,
        )
        for name, wave in waves.items()
    }
    return Basis(np.concatenate(spans), len(even), ends, weights["cosine"], weights["sine"])


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix product [m, k] @ [batch, k, n]. On a CPU by NumPy, whose BLAS is the faster one on AMD processors."""
    import torch

    if right.device.type == "cpu":
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))
    return left @ right
