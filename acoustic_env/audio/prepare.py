"""From the bytes of a clip to the signals its features are computed on.

A clip is decoded once and resampled to each rate that its blocks want; signals are computed at that rate. Nothing is
padded or cut here: a block that needs a longer clip pads for itself, so the other blocks get the true length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audio import decode as decoding
from acoustic_env.audio.signals import DECODED, Engine, with_needed
from acoustic_env.errors import ClipError

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch

MIN_DURATION_S: Final = 0.1  # below 0.06 s scikit-maad has no spectrogram to work on


def decode_and_resample(
    source: BinaryIO, start_s: float | None, end_s: float | None, name: str, rates: Iterable[int]
) -> dict[int, npt.NDArray[np.float32]]:
    """Decode the wanted segment of a recording once and resample it to each rate.

    Args:
        source: seekable; not closed.
        start_s: seconds, None for the recording's start.
        end_s: seconds, None for the recording's end.
        name: the recording's name in messages.
        rates: Hz.

    Returns:
        For each rate float32 mono [samples], not normalized.

    Raises:
        ClipError: as `decode`; too_short below `MIN_DURATION_S`.

    >>> import io, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros(44_100), 44_100, format="WAV")
    >>> found = decode_and_resample(file, 0.25, 0.75, "a.wav", [16_000, 32_000])
    >>> {rate: samples.shape for rate, samples in found.items()}
    {16000: (8000,), 32000: (16000,)}
    """
    waveform, rate = decoding.decode(source, start_s, end_s, name)
    check_length(waveform, rate, name)
    return {wanted: decoding.resample(waveform, rate, wanted) for wanted in rates}


def check_length(waveform: npt.NDArray[np.float32], rate: int, name: str) -> None:
    """Refuse a clip that is too short for the blocks.

    Raises:
        ClipError: too_short below `MIN_DURATION_S`.

    >>> check_length(np.zeros(1_600, np.float32), 16_000, "a.wav")
    >>> check_length(np.zeros(800, np.float32), 16_000, "a.wav")
    Traceback (most recent call last):
        ...
    acoustic_env.errors.ClipError: too_short: a.wav: 0.0500 s of audio, the shortest clip accepted is 0.1 s
    """
    if waveform.size < MIN_DURATION_S * rate:
        msg = f"{name}: {waveform.size / rate:.4f} s of audio, the shortest clip accepted is {MIN_DURATION_S} s"
        raise ClipError("too_short", msg)


def prepare(waveforms: Batch, sample_rate: int, engine: Engine, signals: Collection[str]) -> dict[str, Batch]:
    """Compute the named signals of a batch of clips, and what they need once for all of them.

    Args:
        waveforms: decoded clips, float32 or float64 [clips, samples], all of one length.
        sample_rate: Hz.
        engine: fast or reference.
        signals: names in the registry.

    Returns:
        Name -> [clips, samples], dtype of the input.

    Raises:
        ValueError: a signal is not of the input's shape and dtype.

    >>> clips = np.random.default_rng(23).normal(size=(2, 16_000)).astype(np.float32)
    >>> found = prepare(clips, 16_000, "fast", ["raw", "bg"])
    >>> {name: (samples.shape, samples.dtype.name) for name, samples in found.items()}
    {'raw': ((2, 16000), 'float32'), 'bg': ((2, 16000), 'float32')}
    """
    computed: dict[str, Batch] = {DECODED: waveforms}
    for name, signal in with_needed(signals).items():
        samples = signal.compute({need: computed[need] for need in signal.needs}, sample_rate, engine)
        if (samples.shape, samples.dtype) != (waveforms.shape, waveforms.dtype):
            msg = f"signal {name}: {samples.dtype}{samples.shape}, expected {waveforms.dtype}{waveforms.shape}"
            raise ValueError(msg)
        computed[name] = samples
    return {name: computed[name] for name in signals}


def parameters(sample_rate: int, engine: Engine, signal: str) -> dict[str, Any]:
    """Return what can change a signal's samples: the audio part of the fingerprint of a block's rows of that signal.

    Covered are the version of our decoding, the rate, the resampler's quality and release, and the settings of the
    signal and of those it needs. Releases of soundfile and PyAV are not: PCM and FLAC decode without loss, and decoders
    of lossy formats agree within the tolerances of the blocks.

    >>> sorted(parameters(16_000, "fast", "raw"))
    ['decode', 'libsoxr', 'prepare', 'resampler', 'rms', 'sample_rate', 'silence_rms']
    >>> "separation" in parameters(16_000, "fast", "fg")
    True
    """
    audio: dict[str, Any] = {
        "decode": decoding.VERSION,
        "sample_rate": sample_rate,
        "resampler": decoding.RESAMPLER,
        "libsoxr": decoding.libsoxr_release(),
    }
    for each in with_needed([signal]).values():
        audio |= each.settings(sample_rate, engine)
    return audio
