"""What a recording keeps when it is shifted, trimmed, made louder, coded or covered with some noise.

Three views of a waveform at 16 kHz, none of which needs the others:

* digests of its samples: equal for the same samples, and for the same samples up to gain and silence around them;
* 24 bits a frame of 32 ms: the sign of the change, over 256 ms, of the difference between neighboring bands' log
  energy (after Haitsma and Kalker 2002, with longer steps in time and fewer bands, which keep more bits under codecs
  and under a shift by half a frame). Gain and any fixed filter cancel;
* log band energies a frame, for a correlation that confirms.

Frames of silence have no bits: their energy is rounding, dither or a codec's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d

from acoustic_env.audio.normalize import rms_normalize

RATE: Final = 16_000  # Hz
HOP: Final = 512  # samples
HOP_S: Final = HOP / RATE
BITS: Final = 24
LEVELS: Final = 32  # bands of the log energies
PROBES: Final = 4  # least certain bits of a frame that are named

_BIT_WINDOW: Final = 4_096
_BIT_RANGE_HZ: Final = (250.0, 6_500.0)
_STEP: Final = 8  # frames between the two energies compared
_LEVEL_WINDOW: Final = 2_048
_LEVEL_RANGE_HZ: Final = (150.0, 7_000.0)
_LEVEL_STEP_DB: Final = 0.5
_FLOOR_DB: Final = -120.0
_SILENT_DB: Final = -60.0  # below the clip's own level of about -20 dBFS: 40 dB down
_PEAK_FRAMES: Final = 2
_CHUNK: Final = 1_024  # frames transformed at once

Waveform = npt.NDArray[np.float32]  # [samples] at RATE


@dataclass(frozen=True)
class Signature:
    """Of one clip; arrays have one entry a frame of 32 ms, [frames] or [frames, bands].

    Attributes:
        exact: digest of the samples, 16-bit; empty for a silent clip, which is excluded from matching.
        scaled: digest of the samples without silence at the ends and gain.
        bits: uint32, the lowest 24 used.
        landmarks: int64 [landmarks], frames whose bits are more certain than their neighbors', some 6 a second.
        weakest: uint8 [landmarks, 4], positions of their least certain bits.
        audible: bool, whether the frame's bits mean anything.
        levels: uint8, log band energy in steps of 0.5 dB.

    >>> silent = compute_signature(np.zeros(RATE, np.float32))
    >>> silent.exact, bool(silent.audible.any()), silent.bits.shape
    (b'', False, (16,))
    """

    exact: bytes
    scaled: bytes
    bits: npt.NDArray[np.uint32]
    landmarks: npt.NDArray[np.int64]
    weakest: npt.NDArray[np.uint8]
    audible: npt.NDArray[np.bool_]
    levels: npt.NDArray[np.uint8]


def compute_signature(waveform: Waveform) -> Signature:
    """Compute the signature of a clip, float32 mono [samples] at `RATE`; one too short for a frame has no frames.

    >>> tone = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 3_000, 32_000)) / RATE).astype(np.float32)
    >>> found = compute_signature(tone)
    >>> found.bits.shape, found.levels.shape, bool(found.audible.all())
    ((47,), (47, 32), True)
    >>> quieter = compute_signature(tone / 2)
    >>> found.exact == quieter.exact, found.scaled == quieter.scaled, bool((found.bits == quieter.bits).all())
    (False, True, True)
    """
    normalized = rms_normalize(waveform[None])[0] if waveform.size else waveform
    silent = not normalized.any()
    energies, total = _log_energies(normalized, _BIT_WINDOW, BITS + 1, _BIT_RANGE_HZ)
    levels, _ = _log_energies(normalized, _LEVEL_WINDOW, LEVELS, _LEVEL_RANGE_HZ)
    between = energies[:, 1:] - energies[:, :-1]
    change = between[_STEP:] - between[:-_STEP]
    audible = (total[_STEP:] > _SILENT_DB) & (total[:-_STEP] > _SILENT_DB)
    order = np.argsort(np.abs(change), axis=1, kind="stable")[:, : PROBES + 1]
    certainty = np.where(audible, np.abs(np.take_along_axis(change, order[:, PROBES:], 1))[:, 0], 0.0)
    landmarks = _peaks(certainty)
    # The middle of the two bit frames compared is the middle of this level frame.
    offset = (_BIT_WINDOW - _LEVEL_WINDOW) // (2 * HOP) + _STEP // 2
    return Signature(
        exact=b"" if silent else _digest(waveform),
        scaled=b"" if silent else _digest(_without_gain_and_silence(waveform)),
        bits=((change > 0) * (np.uint32(1) << np.arange(BITS, dtype=np.uint32))).sum(axis=1, dtype=np.uint32),
        landmarks=landmarks,
        weakest=order[landmarks, :PROBES].astype(np.uint8),
        audible=audible,
        levels=np.clip((levels[offset : offset + len(change)] - _FLOOR_DB) / _LEVEL_STEP_DB, 0, 255).astype(np.uint8),
    )


def _peaks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Find entries above zero that none of the `_PEAK_FRAMES` on either side exceeds."""
    highest = maximum_filter1d(values, 2 * _PEAK_FRAMES + 1, mode="constant")
    return np.flatnonzero((values >= highest) & (values > 0.0))


def _log_energies(
    waveform: Waveform, window: int, bands: int, range_hz: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute the energy of log-spaced bands [frames, bands] and of whole frames [frames], in dB of full scale."""
    frames = max(0, 1 + (len(waveform) - window) // HOP)
    edges = np.round(np.geomspace(*range_hz, bands + 1) * window / RATE).astype(np.int64)
    edges = np.maximum.accumulate(np.maximum(edges, edges[0] + np.arange(bands + 1)))
    shape = np.hanning(window).astype(np.float32)
    scale = float(np.square(shape).sum()) * window / 2
    banded = np.empty((frames, bands), np.float32)
    whole = np.empty(frames, np.float32)
    view = np.lib.stride_tricks.sliding_window_view(waveform, window)[::HOP] if frames else np.empty((0, window))
    for first in range(0, frames, _CHUNK):
        power = np.square(np.abs(np.fft.rfft(view[first : first + _CHUNK] * shape, axis=1))) / scale
        banded[first : first + _CHUNK] = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)
        whole[first : first + _CHUNK] = power.sum(axis=1)
    floor = 10.0 ** (_FLOOR_DB / 10.0)
    return 10.0 * np.log10(np.maximum(banded, floor)), 10.0 * np.log10(np.maximum(whole, floor))


def _digest(waveform: Waveform) -> bytes:
    samples = np.clip(np.round(waveform * 32_768.0), -32_768, 32_767).astype("<i2")
    return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def _without_gain_and_silence(waveform: Waveform) -> Waveform:
    """Cut to the first and last sample that is not zero, peak at 1/256: rounding of a gain then seldom shows."""
    sounding = np.flatnonzero(np.abs(waveform) > 1.0 / 65_536.0)
    if not len(sounding):
        return waveform[:0]
    inside = waveform[sounding[0] : sounding[-1] + 1]
    return inside * np.float32(1.0 / (256.0 * np.abs(inside).max()))
