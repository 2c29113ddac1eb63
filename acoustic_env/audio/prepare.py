"""From the bytes of a clip to the signals its features are computed on: raw, foreground and background at one level.

Rules:

* A clip is decoded once and resampled to every rate its blocks want; levelling and separation happen at that rate.
* Level: the mean is removed and the whole clip scaled to an RMS of 0.1. Foreground and background are not levelled
  again, so their level says how much of the clip they are; `raw == fg + bg`.
* A clip whose RMS after removing the mean is below -160 dBFS (half a bit of a 28-bit file), or is mere rounding of its
  offset, is silence and becomes zeros. Silence is a valid clip: its undefined features are null.
* In digital silence within a clip the gate leaves rounding errors of 1e-17, other ones on every machine, and indices
  that measure a background level would measure them: foreground below 1e-12 is zero, in both engines.
* A clip shorter than 0.1 s is refused (`too_short`): below 0.06 s scikit-maad has no spectrogram to work on. Nothing is
  padded here; a block that needs a longer clip pads for itself (see `features.modulation`), so the same clip gives
  the other blocks its true length. A clip longer than 10 s is used whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np
import numpy.typing as npt

from acoustic_env.audio import decode as decoding
from acoustic_env.audio.separate import GATE, separate_reference
from acoustic_env.audio.signals import Engine, Signal
from acoustic_env.errors import ClipError

VERSION: Final = 2  # raised whenever the raw signal of the same samples changes
# Raised whenever an engine's foreground of the same raw signal changes for another reason than its parameters.
SEPARATION_VERSION: Final[Mapping[Engine, int]] = {"fast": 1, "reference": 1}

MIN_DURATION_S: Final = 0.1
RMS: Final = 0.1
SILENCE_RMS: Final = 1e-8
ROUNDING: Final = 1e-12  # -220 dB below the RMS: what the gate's FFTs leave in digital silence
_FLOAT32_RESOLUTION: Final = 1.2e-7

Batch = TypeVar("Batch", npt.NDArray[np.float32], npt.NDArray[np.float64])  # [clips, samples]


def decode_and_resample(
    source: BinaryIO, start_s: float | None, end_s: float | None, name: str, rates: Iterable[int]
) -> dict[int, npt.NDArray[np.float32]]:
    """The wanted segment of a recording at every wanted rate, decoded once; not levelled yet.

    Args:
        source: seekable; not closed.
        start_s: seconds, None for the recording's start.
        end_s: seconds, None for the recording's end.
        name: what to call the recording in messages.
        rates: Hz.

    Returns:
        For each rate float32 mono [samples].

    Raises:
        ClipError: as `decode`; too_short below `MIN_DURATION_S`.
    """
    waveform, rate = decoding.decode(source, start_s, end_s, name)
    if waveform.size < MIN_DURATION_S * rate:
        msg = f"{name}: {waveform.size / rate:.4f} s of audio, the shortest clip accepted is {MIN_DURATION_S} s"
        raise ClipError("too_short", msg)
    return {wanted: decoding.resample(waveform, rate, wanted) for wanted in rates}


def level(waveforms: Batch) -> Batch:
    """Each clip without its mean and at an RMS of 0.1; silence becomes zeros.

    Args:
        waveforms: [clips, samples], finite; one clip's result does not depend on the others.

    Returns:
        Same shape and dtype; sums are taken in float64.
    """
    samples = np.ascontiguousarray(waveforms, np.float64)
    offset = samples.mean(axis=1, keepdims=True)
    samples = samples - offset
    rms = np.sqrt(np.square(samples).mean(axis=1, keepdims=True))
    audible = rms > np.maximum(SILENCE_RMS, _FLOAT32_RESOLUTION * np.abs(offset))
    gain = np.divide(RMS, rms, out=np.zeros_like(rms), where=audible)
    levelled: Batch = (samples * gain).astype(waveforms.dtype)
    return levelled


def prepare(waveforms: Batch, sample_rate: int, engine: Engine, signals: Collection[Signal]) -> dict[Signal, Batch]:
    """The wanted signals of a batch of clips.

    Args:
        waveforms: [clips, samples] at `sample_rate`, all of one length.
        sample_rate: Hz.
        engine: reference gates clip by clip with noisereduce, fast the whole batch with array code.
        signals: raw (levelled), fg (its foreground), bg (raw - fg); separation is skipped when only raw is wanted.

    Returns:
        For each wanted signal [clips, samples], dtype of the input.
    """
    raw = level(waveforms)
    prepared: dict[Signal, Batch] = {"raw": raw}
    if set(signals) - {"raw"}:
        prepared["fg"] = _foreground(raw, sample_rate, engine)
        prepared["bg"] = raw - prepared["fg"]
    return {signal: prepared[signal] for signal in signals}


def parameters(sample_rate: int, engine: Engine, signal: Signal) -> dict[str, Any]:
    """Return what can change a signal's samples: the audio part of the fingerprint of a block's rows of that signal.

    * raw: the version of our decoding, the resampler's quality and release, the rate, RMS normalization. Not covered:
      releases of soundfile and PyAV, since PCM and FLAC decode without loss and the decoders of lossy formats agree
      within the tolerances of the blocks; what we make of what they return is under `decode.VERSION`.
    * fg and bg: all that, and separation: its parameters and our version of it. The reference engine calls noisereduce,
      so its release counts; the fast engine does not.

    Args:
        sample_rate: Hz.
        engine: of the separation.
        signal: raw, fg or bg; fg and bg have the same parameters.
    """
    raw = {
        "decode": decoding.VERSION,
        "prepare": VERSION,
        "sample_rate": sample_rate,
        "resampler": decoding.RESAMPLER,
        "libsoxr": decoding.libsoxr_release(),
        "rms": RMS,
        "silence_rms": SILENCE_RMS,
    }
    if signal == "raw":
        return raw
    separation: dict[str, Any] = {name: value for name, value in GATE.items() if name not in ("n_jobs", "use_tqdm")}
    separation |= {"version": SEPARATION_VERSION[engine], "rounding": ROUNDING}
    if engine == "reference":
        separation["noisereduce"] = version("noisereduce")
    return {**raw, "separation": {"engine": engine, **separation}}


def _foreground(raw: Batch, sample_rate: int, engine: Engine) -> Batch:
    if engine == "fast":
        from acoustic_env.audio.separate_fast import separate_fast

        foreground = separate_fast(raw, sample_rate)
        foreground[~np.isfinite(foreground)] = 0  # as `separate_reference` does
    else:
        foreground = np.empty_like(raw)
        for clip, waveform in zip(foreground, raw, strict=True):
            clip[:] = separate_reference(waveform, sample_rate)
    foreground[np.abs(foreground) < ROUNDING] = 0
    return foreground
