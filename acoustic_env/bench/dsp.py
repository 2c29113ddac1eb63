"""The two sides of each DSP stage of the benchmark: the published library's own calls, and the fast engine."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import SIGNALS, Engine
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip
from acoustic_env.bench.pair import Pair
from acoustic_env.features.indices import IndicesBlock
from acoustic_env.features.indices_fast import activity as fast_activity
from acoustic_env.features.indices_fast import entropy as fast_entropy
from acoustic_env.features.indices_fast import regions as fast_regions
from acoustic_env.features.indices_fast import spectral as fast_spectral
from acoustic_env.features.indices_fast.spectrogram import Spectrogram, spectrogram
from acoustic_env.features.indices_fast.temporal import temporal_indices
from acoustic_env.features.modulation import ModulationBlock

LOW: Final = np.array([0, 1_000])
MID: Final = np.array([1_000, 10_000])
HIGH: Final = np.array([10_000, 20_000])


def decode() -> Pair:
    """From a file's bytes to 16 kHz mono: librosa's own loader, and ours."""
    import librosa

    def reference(clip: BenchClip) -> object:
        duration = clip.end_s - clip.start_s
        return librosa.load(io.BytesIO(clip.data), sr=SAMPLE_RATE, offset=clip.start_s, duration=duration)

    def fast(clip: BenchClip) -> object:
        return prepare.decode_and_resample(io.BytesIO(clip.data), clip.start_s, clip.end_s, "clip", [SAMPLE_RATE])

    return Pair(reference, fast)


def separation() -> Pair:
    """Levelling and the spectral gate."""

    def side(engine: Engine) -> Callable[[BenchClip], object]:
        return lambda clip: prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, SIGNALS)

    return Pair(side("reference"), side("fast"))


def power_spectrogram() -> Pair:
    """The power spectrogram of the spectral indices."""
    from maad import sound

    return Pair(
        lambda clip: [sound.spectrogram(x, SAMPLE_RATE, mode="psd") for x in _doubles(clip)],
        lambda clip: [spectrogram(x[None], SAMPLE_RATE) for x in _doubles(clip)],
    )


def temporal() -> Pair:
    """The 16 indices of the waveform."""
    from maad import features

    return Pair(
        lambda clip: [_quietly(features.all_temporal_alpha_indices, x, SAMPLE_RATE) for x in _doubles(clip)],
        lambda clip: [_quietly(temporal_indices, x[None], SAMPLE_RATE) for x in _doubles(clip)],
    )


def spectrum() -> Pair:
    """MEANf to Hf, the H entropies and RAOQ: everything of the average spectrum."""
    from maad import features, sound

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        amplitude = sound.avg_amplitude_spectro(np.sqrt(power))
        features.spectral_moments(amplitude)
        features.number_of_peaks(amplitude, frequencies)
        features.spectral_leq(power, 42)
        sound.spectral_snr(power)
        features.frequency_entropy(power, compatibility="QUT")
        mean = sound.avg_power_spectro(power)
        features.more_entropy(mean, order=3)
        features.frequency_raoq(mean, frequencies, bin_step=1_000)

    def fast(spectra: Spectrogram) -> None:
        fast_spectral.spectrum_indices(spectra)
        fast_entropy.spectrum_entropies(spectra.mean_power)
        fast_entropy.rao_quadratic_entropy(*fast_spectral.coarse_bins(spectra))

    return _spectral_pair(reference, fast)


def equalised_entropy() -> Pair:
    """The median equaliser, EAS to EPS_SKEW."""
    from maad import features, sound

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        features.spectral_entropy(sound.median_equalizer(power), frequencies, flim=(1_000, 20_000))

    return _spectral_pair(reference, fast_entropy.equalised_entropies)


def gradient() -> Pair:
    """ACI, ROU and AGI."""
    from maad import features

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        amplitude = np.sqrt(power)
        features.acoustic_complexity_index(amplitude)
        features.roughness(amplitude, norm=None, axis=1)
        features.acoustic_gradient_index(amplitude, dt=times[1] - times[0])

    return _spectral_pair(reference, fast_spectral.gradient_indices)


def bands() -> Pair:
    """NDSI, rBA, the energies, BI, ADI, AEI and TFSD."""
    from maad import features

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        amplitude = np.sqrt(power)
        features.soundscape_index(power, frequencies, MID, LOW)
        features.bioacoustics_index(amplitude, frequencies, MID)
        features.acoustic_diversity_index(amplitude, frequencies, 0, 10_000)
        features.acoustic_eveness_index(amplitude, frequencies, 0, 10_000, bin_step=1_000)
        features.tfsd(amplitude, frequencies, times, flim=MID)

    def fast(spectra: Spectrogram) -> None:
        fast_spectral.soundscape_indices(*fast_spectral.coarse_bins(spectra), spectra.power.shape[-1])
        fast_spectral.bioacoustic_index(spectra)
        fast_spectral.diversity_indices(spectra)
        fast_spectral.time_frequency_derivation(spectra)

    return _spectral_pair(reference, fast)


def activity() -> Pair:
    """The median equaliser, cover, activity and events."""
    from maad import features, sound, util

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        level = util.power2dB(sound.median_equalizer(power))
        dt = times[1] - times[0]
        features.spectral_cover(level, frequencies, 3, LOW, MID, HIGH)
        features.spectral_activity(level, 3)
        features.spectral_events(level, dt, 3, 3 * dt)

    return _spectral_pair(reference, fast_activity.activity_indices)


def regions() -> Pair:
    """NROI and AROI."""
    from maad import features

    def reference(power: Any, frequencies: Any, times: Any) -> None:
        features.region_of_interest_index(
            power, times, frequencies, seed_level=13, fusion_rois=None, min_event_duration=0.025
        )

    return _spectral_pair(reference, fast_regions.region_indices)


def indices() -> Pair:
    """All 60 indices, spectrogram included."""
    return Pair(
        lambda clip: _compute(IndicesBlock("reference"), clip), lambda clip: _compute(IndicesBlock("fast"), clip)
    )


def modulation() -> Pair:
    """The modulation spectrum, Gaussian spectrogram included."""
    reference, fast = ModulationBlock("reference"), ModulationBlock("fast")
    return Pair(lambda clip: _compute(reference, clip), lambda clip: _compute(fast, clip))


def dsp() -> Pair:
    """All of it: separation, 60 indices and modulation spectrum of three signals."""

    def side(engine: Engine) -> Callable[[BenchClip], object]:
        blocks = (IndicesBlock(engine), ModulationBlock(engine))

        def run(clip: BenchClip) -> None:
            for waveforms in prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, SIGNALS).values():
                for block in blocks:
                    block.compute(waveforms)

        return run

    return Pair(side("reference"), side("fast"))


def _compute(block: IndicesBlock | ModulationBlock, clip: BenchClip) -> None:
    for waveform in clip.signals.values():
        block.compute(waveform[None])


def _spectral_pair(reference: Callable[[Any, Any, Any], object], fast: Callable[[Spectrogram], object]) -> Pair:
    """A group of spectral indices; the spectrogram itself is not counted (made before the clock starts)."""
    spectra: list[Spectrogram] = []

    def side(work: Callable[[Spectrogram], object]) -> Callable[[BenchClip], object]:
        return lambda _: [_quietly(work, of) for of in spectra]

    def ready(clip: BenchClip) -> None:
        spectra[:] = [spectrogram(x[None], SAMPLE_RATE) for x in _doubles(clip)]

    return Pair(
        side(lambda of: reference(of.power[0], of.frequencies, of.times)),
        side(lambda of: fast(Spectrogram(of.power, of.frequencies, of.times))),
        ready,
    )


def _doubles(clip: BenchClip) -> list[npt.NDArray[np.float64]]:
    return [waveform.astype(np.float64) for waveform in clip.signals.values()]


def _quietly(work: Callable[..., object], *arguments: object) -> object:
    with _quiet():
        return work(*arguments)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
