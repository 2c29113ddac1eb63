"""The front end that VGGish and YAMNet share: waveform to log-mel patches.

The computation of tensorflow/models, research/audioset/yamnet/features.py, which TF-Hub's models carry inside: periodic
Hann window, zeros up to the FFT length, magnitude, HTK mel weights, log(x + offset), patches of frames. TensorFlow
makes the window and the mel weights in float32, and so does this: in float64 the weights near the edges of a band would
differ by up to 1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from acoustic_env.features.embedders.front_end import FrontEnd


def htk_mel_weights(front_end: FrontEnd) -> npt.NDArray[np.float32]:
    """Compute triangles on the HTK mel scale, mel = 1127 ln(1 + Hz / 700), as tf.signal.linear_to_mel_weight_matrix.

    Returns:
        float32[fft // 2 + 1, mel_bands]; the bin at 0 Hz is left out.

    >>> at = FrontEnd(16_000, 400, 160, 512, 64, 125.0, 7_500.0, "htk", "magnitude", "log(x + 0.01)", 96, 96)
    >>> weights = htk_mel_weights(at)
    >>> weights.shape, weights.dtype.name, bool(weights.max() <= 1)
    ((257, 64), 'float32', True)
    """
    single = np.float32

    def mel(hertz: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        # The logarithm rounded from float64: nearest to TensorFlow's, whose last digit depends on the processor.
        logarithm = np.log((single(1.0) + hertz / single(700.0)).astype(np.float64)).astype(np.float32)
        return single(1127.0) * logarithm

    bins_mel = mel(_linspace(0.0, front_end.sample_rate / 2, front_end.fft // 2 + 1)[1:])[:, None]
    low, high = mel(np.array([front_end.low_hz, front_end.high_hz], np.float32))
    edges = _linspace(low, high, front_end.mel_bands + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins_mel - lower) / (center - lower), (upper - bins_mel) / (upper - center)
    triangles = np.maximum(single(0.0), np.minimum(rising, falling))
    return np.pad(triangles, ((1, 0), (0, 0)))


def hann_window(samples: int) -> npt.NDArray[np.float32]:
    """Return the periodic Hann window of an even number of samples, in float32 throughout (tf.signal.hann_window).

    >>> hann_window(4)
    array([0. , 0.5, 1. , 0.5], dtype=float32)
    """
    phase = np.float32(2.0 * np.pi) * np.arange(samples, dtype=np.float32) / np.float32(samples)
    return np.asarray(np.float32(0.5) - np.float32(0.5) * np.cos(phase))


def _linspace(start: float, stop: float, count: int) -> npt.NDArray[np.float32]:
    """Return values evenly spaced in float32 throughout, as tf.linspace."""
    step = (np.float32(stop) - np.float32(start)) / np.float32(count - 1)
    values = np.float32(start) + step * np.arange(count, dtype=np.float32)
    values[-1] = stop
    return values


class LogMelPatches(nn.Module):
    """Waveforms[clips, samples] to log-mel patches[clips, patches, patch_frames, mel_bands], float32.

    On a CPU clip by clip, which stays in its caches.

    Args:
        front_end: its settings; has patches.
        log_offset: added before the logarithm.
        pads: zeros at the end complete the last patch (`pad_waveform` of YAMNet); otherwise the rest is left out.

    >>> at = FrontEnd(16_000, 400, 160, 512, 64, 125.0, 7_500.0, "htk", "magnitude", "log(x + 0.01)", 96, 96)
    >>> LogMelPatches(at, 0.01, pads=False)(torch.zeros(2, 32_000)).shape
    torch.Size([2, 2, 96, 64])
    >>> LogMelPatches(at, 0.01, pads=True)(torch.zeros(2, 32_000)).shape
    torch.Size([2, 3, 96, 64])
    """

    window: Tensor
    mel: Tensor

    def __init__(self, front_end: FrontEnd, log_offset: float, *, pads: bool) -> None:
        super().__init__()
        if front_end.patch_frames is None or front_end.patch_hop is None:
            raise ValueError("a front end with patches is needed")
        self.settings, self.log_offset, self.pads = front_end, log_offset, pads
        self.patch_frames, self.patch_hop = front_end.patch_frames, front_end.patch_hop
        self.register_buffer("window", torch.from_numpy(hann_window(front_end.window)))
        self.register_buffer("mel", torch.from_numpy(htk_mel_weights(front_end)))

    def forward(self, waveforms: Tensor) -> Tensor:
        first = patch_samples(self.settings)
        hop = self.patch_hop * self.settings.hop
        rest = (waveforms.shape[1] - first) % hop if self.pads else 0
        if rest:
            waveforms = nn.functional.pad(waveforms, (0, hop - rest))
        return self.log_mel(waveforms).unfold(1, self.patch_frames, self.patch_hop).transpose(2, 3)

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Compute the log-mel spectrogram [clips, frames, mel_bands]."""
        pieces: tuple[Tensor, ...] = torch.split(waveforms, 1 if waveforms.device.type == "cpu" else len(waveforms))
        return torch.cat([self._log_mel(piece) for piece in pieces])

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        frames = waveforms.unfold(1, self.settings.window, self.settings.hop)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window, self.settings.fft)).square_()
        magnitude = (spectrum[..., 0] + spectrum[..., 1]).sqrt_()  # several times faster than abs
        return torch.log(magnitude @ self.mel + self.log_offset)


class PatchSteps(nn.Module):
    """A network of single patches over those of all clips, so many at a time that memory stays bounded.

    patches[clips, patches, frames, bands] -> (embeddings[clips, patches, size], scores[clips, patches, classes]).

    Args:
        network: patches[n, frames, bands] -> (embeddings[n, size], scores[n, classes] or None).
        step: patches at a time by device.
    """

    def __init__(self, network: nn.Module, step: Mapping[str, int]) -> None:
        super().__init__()
        self.network, self.step = network, step

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        clips, count = patches.shape[:2]
        pieces: tuple[Tensor, ...] = torch.split(patches.flatten(0, 1), self.step[patches.device.type])
        embeddings, scores = zip(*(self.network(piece) for piece in pieces), strict=True)
        joined = torch.cat(embeddings).reshape(clips, count, -1)
        return joined, None if scores[0] is None else torch.cat(scores).reshape(clips, count, -1)


def patch_samples(front_end: FrontEnd) -> int:
    """Return samples that fill exactly one patch.

    >>> at = FrontEnd(16_000, 400, 160, 512, 64, 125.0, 7_500.0, "htk", "magnitude", "log(x + 0.01)", 96, 96)
    >>> patch_samples(at) / at.sample_rate
    0.975
    """
    return ((front_end.patch_frames or 1) - 1) * front_end.hop + front_end.window
