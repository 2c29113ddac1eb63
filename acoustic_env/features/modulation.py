"""The modulation power spectrum: how fast and how finely a sound's spectrogram varies (Singh and Theunissen 2003).

As soundsig computes it, `BioSound(soundWave, fs=16000)`, `mpsCalc(window=1, Norm=True)`: a Gaussian spectrogram in dB
(50 Hz wide, 1,000 frames/s), clipped 50 dB below its maximum and standardized over the whole clip, cut into Gaussian
windows of 1 s, 2-D Fourier transform, power averaged over windows. Linear power.

Then folded, since the spectrogram is real: spectral modulation >= 0 and the mean of the positive and the mirrored
negative temporal half, up to 100 Hz.

* Shape: 80 x 101 (0 to 9.875 cycles/kHz, 0 to 99.9 Hz) with soundsig 3.1.1. Release 1.9, which the studied system
  used, gave 77 x 101: its spectrogram had 153 bins of 52.5 Hz, the current one pads the transform to a fast length and
  has 160 of 50 Hz. Read on one grid, the maps of real clips are alike (their logarithms correlate at 0.998) but 9 %
  higher, (160 / 153)^2: the transform is over more bins.
* Short clips: the library would shrink its window and return another width. A clip of less than 16,001 samples (one
  window) is padded at its end with zeros to that length, whatever the engine. After clipping, zeros are the
  spectrogram's floor, the value with which the library itself pads the ends of every clip, so a short sound reads as
  what it is, a sound followed by nothing. Looping or mirroring it would add modulations that were never there.
* Silence has no modulation spectrum: null.
"""

from __future__ import annotations

import contextlib
import io
import json
from importlib.metadata import version
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms, check_device

SAMPLE_RATE: Final = 16_000
WINDOW_S: Final = 1.0
MAX_TEMPORAL_HZ: Final = 100.0

_FRAME_RATE: Final = 1_000  # frames/s of the spectrogram
_WINDOW_FRAMES: Final = 1_001
_BINS: Final = 160
_BIN_HZ: Final = 50.0

MIN_SAMPLES: Final = (_WINDOW_FRAMES - 1) * SAMPLE_RATE // _FRAME_RATE + 1


def axes() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the axes of the map: spectral modulation [80] in cycles/kHz, temporal modulation [101] in Hz.

    >>> spectral, temporal = axes()
    >>> spectral.shape, round(float(spectral[-1]), 3), temporal.shape, round(float(temporal[-1]), 1)
    ((80,), 9.875, (101,), 99.9)
    """
    spectral = np.arange(_BINS // 2) / (_BINS * _BIN_HZ) * 1e3
    temporal = np.arange((_WINDOW_FRAMES + 1) // 2) * _FRAME_RATE / _WINDOW_FRAMES
    return spectral, temporal[temporal <= MAX_TEMPORAL_HZ]


SHAPE: Final = (axes()[0].size, axes()[1].size)  # spectral, temporal


def as_maps(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return stored vectors [..., spectral * temporal] as maps [..., spectral, temporal].

    >>> as_maps(np.zeros((2, 8080))).shape
    (2, 80, 101)
    """
    return vectors.reshape(*vectors.shape[:-1], *SHAPE)


class ModulationBlock(FeatureBlock):
    """One vector column: the folded modulation power spectrum, row-major [spectral, temporal].

    >>> block = ModulationBlock("fast")
    >>> clips = np.random.default_rng(23).normal(size=(2, 16_000)).astype(np.float32)
    >>> clips[1] = 0
    >>> found = block.compute(clips)["mps"]
    >>> found.shape, np.isnan(found).all(axis=1).tolist()
    ((2, 8080), [False, True])
    """

    name: ClassVar[str] = "mps"
    handmade: ClassVar[bool] = True
    golden: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.device = "cpu"
        self.sample_rate = SAMPLE_RATE
        text = "modulation power spectrum, row-major [spectral, temporal], linear power of the standardised spectrogram"
        self.columns = (Column("mps", pa.list_(pa.float32(), SHAPE[0] * SHAPE[1]), "1", text),)

    @property
    def gpu_pool(self) -> str | None:
        """The fast engine's kernel runs on a GPU, too."""
        return self.name if self.engine == "fast" else None

    def load(self, device: str) -> None:
        """Compute there; the reference engine knows processors only."""
        if self.engine == "fast":
            check_device(device, f"block {self.name}")
            self.device = device

    def parameters(self) -> dict[str, Json]:
        """Return what the transform is made of, and for the reference engine its library's release."""
        library: dict[str, Json] = {"soundsig": version("soundsig")} if self.engine == "reference" else {}
        return {
            **library,
            "window_s": WINDOW_S,
            "normalised": True,
            "max_temporal_hz": MAX_TEMPORAL_HZ,
            "shortest": f"zeros at the end to {MIN_SAMPLES} samples",
        }

    def metadata(self) -> dict[str, str]:
        """Return the shape and axes of the map, as JSON."""
        spectral, temporal = axes()
        return {
            "mps_shape": json.dumps(SHAPE),
            "mps_spectral_cycles_per_kHz": json.dumps(spectral.tolist()),
            "mps_temporal_Hz": json.dumps(temporal.tolist()),
        }

    def compute(self, waveforms: Waveforms) -> Columns:
        """Compute `mps` float32 [clips, spectral * temporal]; a silent clip's row is NaN."""
        missing = max(0, MIN_SAMPLES - waveforms.shape[1])
        padded: Any = np.pad(waveforms, ((0, 0), (0, missing)))
        if self.engine == "fast":
            from acoustic_env.features.modulation_fast import modulation_spectrum

            maps: npt.NDArray[Any] = modulation_spectrum(padded, self.sample_rate, self.device)
        else:
            maps = np.stack([reference_spectrum(waveform, self.sample_rate) for waveform in padded])
        return {"mps": maps.reshape(len(maps), -1).astype(np.float32)}


def reference_spectrum(waveform: npt.NDArray[Any], sample_rate: int) -> npt.NDArray[np.float64]:
    """Compute the folded modulation spectrum [spectral, temporal] of one clip by soundsig itself; NaN for silence.

    Args:
        waveform: float32 or float64 [samples], at least `MIN_SAMPLES`.
        sample_rate: 16,000 Hz.

    >>> found = reference_spectrum(np.zeros(MIN_SAMPLES), 16_000)
    >>> found.shape, bool(np.isnan(found).all())
    ((80, 101), True)
    """
    if not waveform.any():
        return np.full(SHAPE, np.nan)
    from soundsig.sound import BioSound

    with np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        sound = BioSound(soundWave=waveform, fs=sample_rate)
        sound.mpsCalc(window=WINDOW_S, Norm=True)
    return fold(sound.mps, sound.wf * 1e3, sound.wt)


def fold(
    power: npt.NDArray[np.float64], spectral: npt.NDArray[np.float64], temporal: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Fold a map: spectral >= 0, mean of the positive and the mirrored negative temporal half, up to 100 Hz.

    The map is [spectral, temporal], its axes in cycles/kHz and Hz, ascending, zero in the middle of the temporal one.

    >>> power = np.array([[9.0, 9.0, 9.0], [1.0, 4.0, 3.0]])
    >>> fold(power, np.array([-1.0, 0.0]), np.array([-50.0, 0.0, 50.0])).tolist()
    [[4.0, 2.0]]
    """
    upper = power[spectral >= 0]
    middle = temporal.size // 2
    folded = (upper[:, middle:] + upper[:, middle::-1]) / 2
    return folded[:, temporal[middle:] <= MAX_TEMPORAL_HZ]
