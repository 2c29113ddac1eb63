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
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from acoustic_env.memory import reuse_freed_memory

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
_BASIS_ERROR: Final = {"float32": 1e-7, "float64": 1e-12}  # largest singular value left out, relative to the largest
# What is worked on at once stays in a processor's cache; a GPU takes all it can get.
_CLIPS_AT_ONCE: Final = {"cpu": 1, "cuda": 16}
_FRAMES_AT_ONCE: Final = {"cpu": 2048, "cuda": 1 << 20}
_WINDOWS_AT_ONCE: Final = {"cpu": 20, "cuda": 1 << 20}


@dataclass(frozen=True)
class Axes:
    """Sizes that follow from the sample rate."""

    hop: int  # samples from frame to frame
    window: int  # samples of the spectrogram's window, odd
    n_fft: int  # length of its transform
    bands: int  # frequency bands kept
    half: int  # frames on each side of the middle of a modulation window
    shift: int  # frames from one modulation window to the next
    spectral: Matrix  # cycles/kHz of the rows
    temporal: Matrix  # Hz of the columns


@lru_cache
def modulation_axes(sample_rate: int) -> Axes:
    """Compute sizes and axes of the modulation spectrum at a sample rate.

    >>> modulation_axes(16_000).hop
    16
    """
    from scipy.fftpack import next_fast_len

    window = int(sample_rate * WINDOW_STDS / (2 * np.pi * BANDWIDTH_HZ)) | 1
    n_fft = int(next_fast_len(window))
    frequencies = np.fft.fftfreq(n_fft, 1 / sample_rate)
    bands = int(np.count_nonzero((frequencies >= 0) & (frequencies <= MAX_FREQUENCY_HZ)))
    hop = round(sample_rate / FRAME_RATE)
    seconds = np.arange(2 * FRAME_RATE) * float(hop) / sample_rate
    length = int(np.flatnonzero(seconds >= WINDOW_S)[0]) | 1
    spectral: Matrix = np.asarray(np.fft.fftfreq(bands, sample_rate / n_fft / 1000), np.float64)
    temporal = np.fft.fftfreq(length, seconds[1])[: length // 2 + 1]
    return Axes(
        hop=hop,
        window=window,
        n_fft=n_fft,
        bands=bands,
        half=length // 2,
        shift=length // 2 // 3,
        spectral=spectral[: (bands + 1) // 2],
        temporal=temporal[temporal <= MAX_TEMPORAL_HZ],
    )


def modulation_spectrum(waveforms: FloatArray, sample_rate: int, device: str = "cpu") -> FloatArray:
    """Compute the modulation power spectrum of each clip.

    Args:
        waveforms: float32 or float64 [clips, samples], more than one second of them.
        sample_rate: in Hz.
        device: "cpu" or "cuda".

    Returns:
        [clips, spectral, temporal] in the dtype given, linear power; axes from `modulation_axes` (80 x 101 at
        16 kHz). NaN where the spectrogram is undefined: a silent clip.

    Raises:
        ValueError: clips of less than a second of frames.

    >>> t = np.arange(32_000) / 16_000
    >>> flutter = (1 + np.sin(2 * np.pi * 20 * t)) * np.random.default_rng(23).normal(size=t.size)
    >>> power = modulation_spectrum(flutter[None], 16_000)
    >>> power.shape
    (1, 80, 101)
    >>> temporal = modulation_axes(16_000).temporal
    >>> round(float(temporal[2 + power[0, 0, 2:].argmax()]))
    20
    """
    axes = modulation_axes(sample_rate)
    clips, samples = waveforms.shape
    if (samples - 1) // axes.hop + 1 <= 2 * axes.half:
        msg = f"a modulation spectrum needs more than {2 * axes.half * axes.hop} samples, not {samples}; pad the clips"
        raise ValueError(msg)
    reuse_freed_memory()
    spectra = np.empty((clips, len(axes.spectral), len(axes.temporal)), waveforms.dtype)
    step = _CLIPS_AT_ONCE[torch.device(device).type]
    for first in range(0, clips, step):
        batch = torch.from_numpy(waveforms[first : first + step]).to(device)
        rows, variance = _spectral_rows(*_gaussian_spectrogram(batch, axes), axes)
        power = _temporal_power(rows, axes) / variance[:, None, None]
        spectra[first : first + step] = power.cpu().numpy()
    return spectra


def _gaussian_spectrogram(waveforms: torch.Tensor, axes: Axes) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the level of each frame and band in bel (powers of ten), up to a constant.

    Returns:
        The level [clips, frames, bands], and its maximum [clips].
    """
    lag = torch.arange(axes.window, dtype=torch.float64, device=waveforms.device) - axes.window // 2
    window = torch.exp(-(lag**2) / (2 * (axes.window / WINDOW_STDS) ** 2))
    window = pad(window, (0, axes.n_fft - axes.window)).to(waveforms.dtype)
    side = axes.window // 2
    padded = pad(waveforms, (side, side + axes.n_fft - axes.window))
    frames = padded.unfold(1, axes.n_fft, axes.hop)
    level = waveforms.new_empty((len(waveforms), frames.shape[1], axes.bands))
    highest = waveforms.new_full((len(waveforms),), -torch.inf)
    for some in _slices(frames.shape[1], _FRAMES_AT_ONCE[waveforms.device.type]):
        squares = torch.view_as_real(torch.fft.rfft(frames[:, some] * window)).square_()[:, :, : axes.bands]
        here = _log10_(torch.add(squares[..., 0], squares[..., 1], out=level[:, some]))
        highest = torch.maximum(highest, here.amax(dim=(1, 2)))
    return level, highest


def _spectral_rows(level: torch.Tensor, highest: torch.Tensor, axes: Axes) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the Fourier transform over bands of the level, edges padded with the transform of its minimum.

    The level is clipped DYNAMIC_RANGE_DB below the maximum (in place), and its mean over all of a clip made 0. The mean
    matters to the transform's first bin alone and follows from sums taken on the way, as does the variance.

    Returns:
        [clips, frames + 2 * half, 2 * spectral], of each bin the real part, then the imaginary part; and the variance
        [clips] of the clipped level, which is 1 in soundsig's definition: powers are to be divided by it.
    """
    clips, frames, bands = level.shape
    count = len(axes.spectral)
    rows = level.new_empty((clips, frames + 2 * axes.half, count, 2))
    floor = (highest - DYNAMIC_RANGE_DB / 10)[:, None, None]
    total, square = level.new_zeros((2, clips), dtype=torch.float64)
    lowest = level.new_full((clips,), torch.inf)
    for some in _slices(frames, _FRAMES_AT_ONCE[level.device.type]):
        above = level[:, some].sub_(floor).clamp_(min=0)
        lowest = torch.minimum(lowest, above.amin(dim=(1, 2)))
        total += above.sum(dim=(1, 2))
        square += above.square().sum(dim=(1, 2))  # pairwise: a product adds up too coarsely in float32
        rows[:, axes.half + some.start : axes.half + some.stop] = torch.view_as_real(torch.fft.rfft(above))[
            :, :, :count
        ]
    mean = total / (frames * bands)
    variance = square / (frames * bands) - mean**2
    for edge in (rows[:, : axes.half], rows[:, axes.half + frames :]):
        edge.zero_()
        edge[:, :, 0, 0] = (bands * lowest)[:, None]
    rows[:, :, 0, 0] -= (bands * mean)[:, None]
    return rows.flatten(2), variance.to(rows.dtype)


def _temporal_power(rows: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Average over windows the power of each row's windowed Fourier transform; [clips, spectral, temporal]."""
    clips, padded, count = rows.shape
    windows = (padded - 2 * axes.half - 1) // axes.shift
    error = _BASIS_ERROR["float64" if rows.dtype == torch.float64 else "float32"]
    basis = _basis(axes.half, axes.shift, len(axes.temporal), error)
    span, cosine, sine = (
        torch.from_numpy(matrix).to(rows.device, rows.dtype) for matrix in (basis.span, basis.cosine, basis.sine)
    )
    total = rows.new_zeros((clips, len(axes.temporal), count))
    first = axes.half - (_BLOCKS - 1) * axes.shift - 1  # where the first window's first block starts
    for clip in range(clips):
        blocks = rows[clip, first:].unfold(0, axes.shift + 1, axes.shift)[: windows + 2 * _BLOCKS - 1]
        coefficients = span @ blocks.transpose(1, 2)  # [blocks, dimensions, rows]
        for some in _slices(windows, _WINDOWS_AT_ONCE[rows.device.type]):
            for sign, weights in ((1, cosine), (-1, sine)):
                features = _features(coefficients, rows[clip], basis, axes, some, sign)
                total[clip] += (weights @ features).square_().sum(dim=0)
    power = total.view(clips, len(axes.temporal), count // 2, 2).sum(dim=3) / windows
    return power.transpose(1, 2)


def _features(
    coefficients: torch.Tensor, rows: torch.Tensor, basis: Basis, axes: Axes, some: slice, sign: int
) -> torch.Tensor:
    """Return what the cosines (sign 1) or sines (-1) of some windows are made of; [windows, features, rows].

    Of each pair of blocks at the same distance before and after the middle, the even coefficients' sum and the odd
    ones' difference (for sines the reverse), and the like of the samples at the window's ends.
    """
    count = some.stop - some.start
    dimensions = coefficients.shape[1]
    features = rows.new_empty((count, _BLOCKS * dimensions + len(basis.ends), rows.shape[1]))
    for block in range(_BLOCKS):
        after = coefficients[some.start + _BLOCKS + block :][:count]
        before = coefficients[some.start + _BLOCKS - 1 - block :][:count]
        even = slice(block * dimensions, block * dimensions + basis.even)
        odd = slice(even.stop, even.start + dimensions)
        torch.add(after[:, : basis.even], before[:, : basis.even], alpha=sign, out=features[:, even])
        torch.sub(after[:, basis.even :], before[:, basis.even :], alpha=sign, out=features[:, odd])
    middle = axes.half + axes.shift * (some.start + 1) - 1
    for end, distance in enumerate(basis.ends, start=_BLOCKS * dimensions):
        later = rows[middle + distance :: axes.shift][:count]
        earlier = rows[middle - distance :: axes.shift][:count]
        torch.add(later, earlier, alpha=sign, out=features[:, end])
    return features


def _slices(length: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


@dataclass(frozen=True)
class Basis:
    """How windows are made of blocks."""

    span: Matrix  # [dimensions, shift + 1], orthonormal: first `even` rows even about a block's middle, then odd ones
    even: int  # how many are even
    ends: tuple[int, ...]  # distances from the middle of the samples beyond the blocks, the first shared with them
    cosine: Matrix  # [temporal, features], weights of the features of a window
    sine: Matrix  # the same


@lru_cache
def _basis(half: int, shift: int, columns: int, error: float) -> Basis:
    length = 2 * half + 1
    std = length / WINDOW_STDS
    position = np.arange(half + 1)
    window = np.exp(-(position**2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    angle = 2 * np.pi / length * np.outer(np.arange(columns), position)
    waves = {"cosine": window * np.cos(angle), "sine": window * np.sin(angle)}  # [columns, half + 1]

    share = np.ones(shift + 1)
    share[[0, -1]] = 0.5  # neighboring blocks share the sample between them
    blocks = {
        name: [wave[:, b * shift :][:, : shift + 1] * share for b in range(_BLOCKS)] for name, wave in waves.items()
    }
    functions = np.concatenate([block for name in waves for block in blocks[name]])
    spans = []
    for sign in (1, -1):
        _, size, rows = np.linalg.svd((functions + sign * functions[:, ::-1]) / 2, full_matrices=False)
        kept = rows[size / size[0] > error]
        spans.append((kept + sign * kept[:, ::-1]) / 2)  # to the last digit: rounding leaves a little of the other kind
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


def _log10_(x: torch.Tensor) -> torch.Tensor:
    """Compute log10 in place, on a CPU by NumPy, whose logarithm is the faster one; -inf for zero."""
    if x.device.type == "cpu":
        with np.errstate(divide="ignore"):
            np.log10(x.numpy(), out=x.numpy())
        return x
    return x.log10_()
