"""The 60 acoustic indices of scikit-maad: 16 of the waveform, 44 of the power spectrogram, at the library's defaults.

Names, order and defaults are those of scikit-maad 1.5.2. Run beside 1.3.12, which the studied system used, on the same
waveforms, 55 of the 60 are equal; the others are

* `nROI` and `aROI` (regions of interest per minute, their share of the spectrogram in percent) in place of `ROItotal`
  and `ROIcover`: regions are found in another way (13 dB seed and 6 dB flood level above the median background, rain
  removed, at least 25 ms x 50 Hz), so the numbers are not comparable;
* LEQt and LEQf: 6.02 dB lower (half the peak-to-peak voltage of the nominal converter);
* TFSD: now from the logarithm of the spectrogram, as its authors define it.

At 16 kHz the band of 10 to 20 kHz holds only the topmost bin (7,984 Hz): HFC is that one bin's cover, and the two
highest of the ten bands of ADI and AEI are that bin as well. MEANt, VARt and LEQt of the raw signal are constants,
because it is RMS-normalized.

Waveforms are handed over in double precision, which is what the library's own loader gives. In single precision a
stretch of digital silence, 0 minus the clip's mean, leaves rounding noise in the spectrogram, and everything measured
against a background level (ACTsp*, EVNsp*, LFC, TFSD, BGNf) measures that noise.

Undefined numbers are NaN (null in the table), infinite ones too:

* silence: SKEWt, KURTt, SKEWf, KURTf, EAS, ECU, ECV, ACI, NDSI, rBA, BI, RAOQ and the five H_ entropies; the levels
  (BGNf and so on) are the library's floor of -3,076 dB, also where over half of a clip is digital silence;
* less than 1 s: LEQt, which averages steps of 1 s;
* less than 0.128 s, two frames of the spectrogram: ECU, ECV, EPS, EPS_KURT and EPS_SKEW. Each bin then lies as far
  above its median as below, and the library returns the entropy of rounding errors;
* a frequency bin without energy in any frame (a click on a frame's edge, a tone at half the rate): ACI,
  H_pairedShannon;
* a bin whose median gradient is zero, or the rounding of float32 samples, 2^-23 of its mean gradient (a lone click or
  step in silence, over half of a clip digitally silent, most foregrounds with long gaps): AGI.

Version 2 differs from version 1 in AGI alone, which was up to 1e305 for such clips.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms

SAMPLE_RATE: Final = 16_000

# name, unit, description. FS is full scale of the waveform, the spectrogram is power per bin in FS^2. dB are relative
# to full scale, except LEQt and LEQf: dB SPL for the library's nominal microphone (-35 dB/V, gain 42 dB).
_TEMPORAL: Final[tuple[tuple[str, str, str], ...]] = (
    ("ZCR", "1/s", "zero crossings per second"),
    ("MEANt", "FS", "mean of the waveform"),
    ("VARt", "FS^2", "variance of the waveform"),
    ("SKEWt", "1", "skewness of the waveform"),
    ("KURTt", "1", "kurtosis of the waveform (3 for Gaussian noise)"),
    ("LEQt", "dB SPL", "equivalent continuous sound level, from the waveform in steps of 1 s"),
    ("BGNt", "dB", "background level: median of the envelope in dB"),
    ("SNRt", "dB", "mean level of the envelope above the background"),
    ("MED", "FS", "median of the envelope"),
    ("Ht", "1", "entropy of the squared envelope, 1 for a steady level"),
    ("ACTtFraction", "1", "share of the envelope 3 dB above the background"),
    ("ACTtCount", "1", "number of envelope frames (32 ms) 3 dB above the background"),
    ("ACTtMean", "dB", "mean level of those frames above the background"),
    ("EVNtFraction", "1", "share of the time within events (3 dB above the background for over 10 ms)"),
    ("EVNtMean", "s", "mean duration of events"),
    ("EVNtCount", "1/s", "events per second"),
)
_SPECTRAL: Final[tuple[tuple[str, str, str], ...]] = (
    ("MEANf", "FS", "mean of the mean amplitude spectrum"),
    ("VARf", "FS^2", "variance of the mean amplitude spectrum"),
    ("SKEWf", "1", "skewness of the mean amplitude spectrum"),
    ("KURTf", "1", "kurtosis of the mean amplitude spectrum"),
    ("NBPEAKS", "1", "peaks of the mean spectrum in dB, at least 200 Hz apart"),
    ("LEQf", "dB SPL", "equivalent continuous sound level, from the power spectrogram"),
    ("ENRf", "dB", "total energy of the mean power spectrum"),
    ("BGNf", "dB", "energy of the noise profile: median of each frequency bin"),
    ("SNRf", "dB", "ENRf - BGNf"),
    ("Hf", "1", "entropy of the mean power spectrum, 1 for white noise"),
    ("EAS", "1", "1 - entropy of the average spectrum, background removed, above 1 kHz"),
    ("ECU", "1", "1 - entropy of the variance over time of each bin"),
    ("ECV", "1", "1 - entropy of variance over mean of each bin"),
    ("EPS", "1", "1 - entropy of the histogram of the frames' loudest frequencies"),
    ("EPS_KURT", "1", "kurtosis of that histogram"),
    ("EPS_SKEW", "1", "skewness of that histogram"),
    ("ACI", "1", "acoustic complexity: amplitude change between frames over amplitude, summed over bins"),
    ("NDSI", "1", "(biophony - anthrophony) / (biophony + anthrophony), -1 to 1"),
    ("rBA", "1", "biophony (1 to 10 kHz) over anthrophony (below 1 kHz)"),
    ("AnthroEnergy", "FS^2", "power below 1 kHz, summed over frames: grows with the clip's length"),
    ("BioEnergy", "FS^2", "power from 1 to 10 kHz, summed over frames"),
    ("BI", "dB/Hz", "bioacoustics index: mean spectrum in dB above its minimum, 1 to 10 kHz, over the bin width"),
    ("ROU", "FS^2", "roughness: squared second difference in time, summed over the spectrogram"),
    ("ADI", "1", "acoustic diversity: Shannon entropy of the cover of ten bands of 1 kHz, -50 dB re maximum"),
    ("AEI", "1", "acoustic evenness: Gini index of the same covers"),
    ("LFC", "1", "cover below 1 kHz: share of cells 3 dB above the background"),
    ("MFC", "1", "cover from 1 to 10 kHz"),
    ("HFC", "1", "cover from 10 to 20 kHz; at 16 kHz that of the topmost bin"),
    ("ACTspFract", "1", "share of cells 3 dB above the background, mean over bins"),
    ("ACTspCount", "1", "number of frames 3 dB above the background, mean over bins"),
    ("ACTspMean", "dB", "mean level of those cells above the background"),
    ("EVNspFract", "1", "share of the time within events of over 96 ms, mean over bins"),
    ("EVNspMean", "s", "mean duration of those events, mean over bins"),
    ("EVNspCount", "1/s", "those events per second, mean over bins"),
    ("TFSD", "1", "time-frequency derivative in third-octave bands from 1 to 10 kHz over that of all bands"),
    ("H_Havrda", "1", "Havrda entropy of the mean power spectrum, order 3"),
    ("H_Renyi", "1", "Renyi entropy, order 3"),
    ("H_pairedShannon", "1", "paired Shannon entropy"),
    ("H_gamma", "1", "gamma entropy, order 3"),
    ("H_GiniSimpson", "1", "Gini-Simpson entropy"),
    ("RAOQ", "1", "Rao's quadratic entropy of the mean power spectrum in bands of 1 kHz"),
    ("AGI", "1", "acoustic gradient: amplitude change in time relative to each bin's median"),
    ("nROI", "1/min", "regions of interest per minute"),
    ("aROI", "%", "share of the spectrogram covered by regions of interest"),
)
TEMPORAL: Final = tuple(name for name, _, _ in _TEMPORAL)
SPECTRAL: Final = tuple(name for name, _, _ in _SPECTRAL)
NAMES: Final = TEMPORAL + SPECTRAL

_THREE_FRAMES: Final = 2_048  # samples
_OF_THREE_FRAMES: Final = ("ECU", "ECV", "EPS", "EPS_KURT", "EPS_SKEW")


class IndicesBlock(FeatureBlock):
    """60 float64 columns, one per acoustic index.

    >>> block = IndicesBlock("fast")
    >>> found = block.compute(np.random.default_rng(23).normal(size=(2, 16_000)).astype(np.float32))
    >>> len(found), found["ACI"].dtype, found["ACI"].shape
    (60, dtype('float64'), (2,))
    >>> block.columns[0].name, block.columns[0].unit
    ('ZCR', '1/s')
    """

    name: ClassVar[str] = "indices"
    handmade: ClassVar[bool] = True
    golden: ClassVar[bool] = True
    version: ClassVar[int] = 2  # raised whenever either engine's numbers change, of the fast one by our code alone

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sample_rate = SAMPLE_RATE
        self.columns = tuple(Column(name, pa.float64(), unit, text) for name, unit, text in _TEMPORAL + _SPECTRAL)

    def parameters(self) -> dict[str, Json]:
        """Return the library's release for the reference engine, which takes its defaults; nothing for the fast one."""
        return {"scikit-maad": version("scikit-maad")} if self.engine == "reference" else {}

    def compute(self, waveforms: Waveforms) -> Columns:
        """Compute 60 arrays float64 [clips]; undefined and infinite numbers are NaN."""
        waveforms = waveforms.astype(np.float64)
        if self.engine == "fast":
            from acoustic_env.features.indices_fast import compute_indices

            columns: Columns = dict(compute_indices(waveforms, self.sample_rate))
        else:
            rows = np.stack([reference_indices(waveform, self.sample_rate) for waveform in waveforms])
            columns = dict(zip(NAMES, rows.T, strict=True))
        if waveforms.shape[1] < _THREE_FRAMES:
            columns |= {name: np.full(len(waveforms), np.nan) for name in _OF_THREE_FRAMES}
        return {name: np.where(np.isfinite(columns[name]), columns[name], np.nan) for name in NAMES}


def reference_indices(waveform: npt.NDArray[np.float64], sample_rate: int) -> npt.NDArray[np.float64]:
    """Compute the indices of one clip, float64 [samples] of 0.1 s at least, by scikit-maad itself.

    Returns:
        [60] in the order of `NAMES`, as the library gives them (inf included), but for AGI that is rounding noise: NaN.

    >>> clip = np.random.default_rng(23).normal(size=16_000)
    >>> found = dict(zip(NAMES, reference_indices(clip, 16_000).tolist(), strict=True))
    >>> round(found["Ht"], 3)
    0.989
    """
    from maad import features, sound

    from acoustic_env.features.indices_fast.spectral import gradient_index

    with _quiet():
        temporal = features.all_temporal_alpha_indices(waveform, sample_rate)
        power, times, frequencies, _ = sound.spectrogram(waveform, sample_rate, mode="psd")
        spectral, _ = features.all_spectral_alpha_indices(power, times, frequencies)
        if np.isnan(gradient_index(np.abs(np.diff(np.sqrt(power[None]), axis=-1)))).any():
            spectral["AGI"] = np.nan
    rows = [
        table.loc[0, list(names)].to_numpy(np.float64) for table, names in ((temporal, TEMPORAL), (spectral, SPECTRAL))
    ]
    return np.concatenate(rows)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's prints and its warnings about logarithms of zero."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
