"""A trained classifier that answers for files and waveforms in this process, without Ray and without a feature store.

It computes the features that the batch job computes, by the same code, and so gives the same probabilities.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

from acoustic_env.audio import decode, prepare
from acoustic_env.audio.fetch import open_audio
from acoustic_env.errors import ClipError
from acoustic_env.features.block import Waveforms, to_table
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data.matrix import FeatureMatrix, computed_matrix
from acoustic_env.models.data.windows import pool, pool_recordings
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.stats.intervals import Floats

WINDOW_S: Final = 10.0  # where the bundle does not know the length of its training clips: AudioSet's
TOGETHER: Final = 8  # windows decoded and computed at once: bounds memory
LEAST: Final = 0.5  # share of a window that the last one must have

Wave = npt.NDArray[np.float32]
Decode = Callable[[BinaryIO, float | None, float | None, str], tuple[Wave, int]]  # as `decode.decode`


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of a clip, of a window or of a whole recording.

    Attributes:
        start_s, end_s: of the recording, in s.
        posterior: class -> calibrated probability.
        unlike: whether it is unlike the training clips; None for bundles that do not know.
    """

    start_s: float
    end_s: float
    posterior: dict[str, float]
    unlike: bool | None
    raw: Floats = field(repr=False, compare=False)


@dataclass(frozen=True)
class Window:
    """A window of a recording, or the whole of it.

    Attributes:
        start_s: of the recording, in s.
        wave: float32 [samples], mono, full scale at 1.
        rate: Hz.
    """

    start_s: float
    wave: Wave = field(repr=False, compare=False)
    rate: int


def cut_windows(
    audio: str | Path | Waveforms, sample_rate: int | None, window_s: float, decoder: Decode = decode.decode
) -> Iterator[list[Window]]:
    """Cut a recording of any length into windows, `TOGETHER` at a time.

    Windows follow each other; a last one of less than half a window is left out, if it is not the only one.

    Args:
        audio, sample_rate: as for `Predictor.predict`.
        window_s: length in s.
        decoder: decodes a segment.

    Raises:
        ClipError: the audio cannot be used.

    >>> import numpy as np
    >>> [[window.start_s for window in some] for some in cut_windows(np.zeros(80_000), 16_000, 2.0)]
    [[0.0, 2.0, 4.0]]
    """
    source, name = open_audio(audio, sample_rate)
    with source:
        for number in itertools.count():
            start_s = number * TOGETHER * window_s
            try:
                wave, rate = decoder(source, start_s, start_s + TOGETHER * window_s, name)
            except ClipError as error:
                if number and error.code in ("no_such_segment", "empty"):
                    return
                raise
            edges = [round(i * window_s * rate) for i in range(TOGETHER + 1)]
            windows = [
                Window(start_s + first / rate, wave[first:end], rate) for first, end in itertools.pairwise(edges)
            ]
            kept = [window for window in windows if len(window.wave) >= LEAST * window_s * rate]
            if not number and not kept:
                kept = [Window(start_s, wave, rate)]
            for window in kept:
                prepare.check_length(window.wave, rate, name)
            if kept:
                yield kept
            if len(wave) < edges[-1]:
                return


class Predictor:
    """A trained classifier with its feature blocks loaded.

    Args:
        bundle: trained.
        window_s: length of the windows of `predict_windows` in s; None for the length of the training clips.
        device: where networks run, "cpu" or "cuda".
        decoder: decodes files: in this process, or in one with limits (`acoustic_env.audio.limited`).

    Attributes:
        window_s: length of a window, s.
    """

    def __init__(
        self, bundle: Bundle, *, window_s: float | None = None, device: str = "cpu", decoder: Decode = decode.decode
    ) -> None:
        self.bundle, self._decoder = bundle, decoder
        self.window_s = window_s or bundle.clip_s or WINDOW_S
        self._signals = tuple(dict.fromkeys(column.signal for column in bundle.preprocessor.feature_columns))
        options = bundle.recipe.blocks
        specs = [BlockSpec(name, "fast", 0, self._signals, options.get(name, {})) for name in bundle.fingerprints]
        self._blocks = [(block_work(spec), spec.make()) for spec in specs]
        bundle.check_versions({work.spec.name: work.fingerprints for work, _ in self._blocks})
        for _, block in self._blocks:
            block.load(device)
        for member in bundle.classifier.members:
            if hasattr(member, "network"):
                member.device = device

    @classmethod
    def load(cls, folder: str | Path, *, window_s: float | None = None, device: str = "cpu") -> Self:
        """Load a bundle that `train` has written.

        Raises:
            UsageError: no bundle, a damaged one, one of blocks that are not computed from audio, or of which this
                installation computes another version.

        >>> from acoustic_env import Predictor
        >>> Predictor.load("sound-bundle").classes
        ('noise', 'tone')
        """
        return cls(Bundle.load(str(folder)), window_s=window_s, device=device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.bundle.classes

    def predict(self, audio: str | Path | Waveforms, *, sample_rate: int | None = None) -> Prediction:
        """Predict a recording as one clip: the numbers of `acoustic-env extract` and `predict`.

        Args:
            audio: a file or URL in any form that a clip list takes, or a waveform [samples] or [samples, channels].
            sample_rate: Hz; of a waveform only.

        Raises:
            ClipError: the audio cannot be used.
            UsageError: `sample_rate` missing or too much.

        >>> import numpy as np
        >>> from acoustic_env import Predictor
        >>> tone = np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
        >>> found = Predictor.load("sound-bundle").predict(tone, sample_rate=16_000)
        >>> found.posterior["tone"] > 0.5
        True
        """
        source, name = open_audio(audio, sample_rate)
        with source:
            wave, rate = self._decoder(source, None, None, name)
        prepare.check_length(wave, rate, name)
        return self.predict_clips([Window(0.0, wave, rate)])[0]

    def predict_windows(self, audio: str | Path | Waveforms, *, sample_rate: int | None = None) -> Iterator[Prediction]:
        """Predict a recording of any length window by window, each as a clip of its own.

        The windows are those of `cut_windows`; some are in memory at a time.

        Args:
            audio, sample_rate: as for `predict`.

        Raises:
            ClipError: the audio cannot be used.

        >>> import numpy as np
        >>> from acoustic_env import Predictor
        >>> predictor = Predictor.load("sound-bundle", window_s=2.0)
        >>> noise = np.random.default_rng(0).normal(size=80_000) / 10
        >>> windows = list(predictor.predict_windows(noise, sample_rate=16_000))
        >>> [(window.start_s, window.end_s) for window in windows]
        [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
        >>> predictor.pool(windows).posterior["noise"] > 0.5
        True
        """
        for windows in cut_windows(audio, sample_rate, self.window_s, self._decoder):
            yield from self.predict_clips(windows)

    def predict_clips(self, windows: Sequence[Window]) -> list[Prediction]:
        """Predict windows of any recordings, each as a clip of its own; those of one length and rate together.

        Args:
            windows: of `cut_windows`.

        >>> import numpy as np
        >>> from acoustic_env import Predictor
        >>> noise = np.random.default_rng(0).normal(size=80_000) / 10
        >>> windows = next(cut_windows(noise, 16_000, 2.0))
        >>> len(Predictor.load("sound-bundle").predict_clips(windows))
        3
        """
        found: dict[int, Prediction] = {}

        def kind(number: int) -> tuple[int, int]:
            return windows[number].rate, len(windows[number].wave)

        for (rate, length), group in itertools.groupby(sorted(range(len(windows)), key=kind), kind):
            numbers = list(group)
            own = np.stack([windows[number].wave for number in numbers])
            x = self.bundle.preprocessor.transform(self._matrix(own, rate).values)
            raw = self.bundle.classifier.predict_proba(x)
            if self.bundle.recipe.level == "recording":
                raw = pool_recordings(self.bundle.recipe, raw, np.arange(len(own)), self.bundle.exponent)
            novelty = self.bundle.novelty
            unlike = [None] * len(own) if novelty is None else novelty.unlike(x).tolist()
            calibrated = self.bundle.calibrator.predict_proba(raw)
            raw, calibrated = (rows.reshape(len(own), -1, len(self.classes)) for rows in (raw, calibrated))
            for i, number in enumerate(numbers):
                start_s = windows[number].start_s
                posterior = self._by_class(calibrated[i].mean(axis=0))  # of windows, where the recipe counts these
                found[number] = Prediction(start_s, start_s + length / rate, posterior, unlike[i], raw[i])
        return [found[number] for number in range(len(windows))]

    def pool(self, windows: Iterable[Prediction]) -> Prediction:
        """Return the answer for a whole recording.

        The recipe's pooling, calibrated for recordings, where the bundle was trained for recordings (`windows: level:
        recording`); the mean of the windows' calibrated probabilities else. It is unlike the training clips where most
        windows are.

        Args:
            windows: of one recording, at least one.
        """
        own = list(windows)
        raw, recipe = np.concatenate([window.raw for window in own]), self.bundle.recipe
        if recipe.level == "recording":
            raw = pool_recordings(recipe, raw, np.zeros(len(raw), np.int64), self.bundle.exponent)
            calibrated = self.bundle.calibrator.predict_proba(raw)
        else:
            calibrated = self.bundle.calibrator.predict_proba(raw)
            calibrated = pool(calibrated, np.zeros(len(raw), np.int64), "mean", recipe.task)
        marks = [window.unlike for window in own if window.unlike is not None]
        unlike = sum(marks) > len(marks) / 2 if marks else None
        return Prediction(own[0].start_s, own[-1].end_s, self._by_class(calibrated[0]), unlike, raw)

    def _matrix(self, waves: Wave, rate: int) -> FeatureMatrix:
        """Compute the features of clips float32 [clips, samples]."""
        ids = [str(number) for number in range(len(waves))]
        prepared = {}
        for wanted in {block.sample_rate for _, block in self._blocks}:
            resampled = np.stack([decode.resample(wave, rate, wanted) for wave in waves])
            prepared[wanted] = prepare.prepare(resampled, wanted, "fast", self._signals)
        tables = {
            (work.spec.name, signal): to_table(
                work.schemas[signal], ids, [signal] * len(ids), block.compute(prepared[block.sample_rate][signal])
            )
            for work, block in self._blocks
            for signal in self._signals
        }
        frames = self.bundle.recipe.model.reads_sequences
        return self.bundle.check(computed_matrix(tables, ids, frames=frames))

    def _by_class(self, calibrated: Floats) -> dict[str, float]:
        return dict(zip(self.classes, calibrated.tolist(), strict=True))
