"""Reduction of each (block, signal): impute, scale, PCA, scale; fitted on training rows, stored as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import ReductionSettings
from acoustic_env.errors import UsageError
from acoustic_env.models.evaluate import Floats
from acoustic_env.models.matrix import FeatureColumn
from acoustic_env.models.pca import principal_components

Matrix = npt.NDArray[np.float32]

# A column that varies by less than this share of its mean does so by rounding only.
CONSTANT: Final = 1e-6
CHUNK: Final = 2048
NAMED: Final = 5


@dataclass(frozen=True)
class PartReduction:
    """What was learned of one (block, signal).

    Attributes:
        block, signal: which.
        columns: numbers of the matrix columns kept, int64 [k].
        names: their names in the block.
        empty, constant: names of the columns left out because they are all missing, or the same everywhere.
        mean, scale: of each kept column [k]; missing values take the mean; scale is 1 without scaling first.
        deviation: standard deviation of each kept column [k].
        components: rows are components [c, k], or None where the scaled features themselves are kept.
        spread: standard deviation of each component's score [c] (of [k] features: ones after scaling).
        explained: share of the part's (scaled) variance of each component [c].
    """

    block: str
    signal: str
    columns: npt.NDArray[np.int64]
    names: tuple[str, ...]
    empty: tuple[str, ...]
    constant: tuple[str, ...]
    mean: Floats
    scale: Floats
    deviation: Floats
    components: Floats | None
    spread: Floats
    explained: Floats

    @property
    def size(self) -> int:
        """Reduced features of the part."""
        return len(self.spread)

    def transform(self, values: Matrix) -> Matrix:
        """Reduced features [n, size] of matrix rows [n, d]."""
        out = np.empty((len(values), self.size), np.float32)
        for start in range(0, len(values), CHUNK):
            centerd = self.center(values[start : start + CHUNK])
            scores = centerd if self.components is None else centerd @ self.components.T
            out[start : start + CHUNK] = scores / self.spread
        return out

    def center(self, values: Matrix) -> Floats:
        """Kept columns imputed, centerd and scaled: float64 [n, k]."""
        kept = values[:, self.columns].astype(np.float64)
        centerd = (kept - self.mean) / self.scale
        centerd[~np.isfinite(kept)] = 0.0
        return centerd

    def summary(self) -> str:
        """For a person: what came of the part."""
        kind = "features, no PCA" if self.components is None else "components"
        there = len(self.columns) + len(self.empty) + len(self.constant)
        text = f"{self.block}.{self.signal}: {there} columns -> {self.size} {kind}"
        if self.components is not None:
            text += f" ({self.explained.sum():.1%} of variance)"
        for reason, names in (("without any value", self.empty), ("constant", self.constant)):
            if names:
                more = ", ..." if len(names) > NAMED else ""
                text += f"; {len(names)} {reason} left out: {', '.join(names[:NAMED])}{more}"
        return text


@dataclass(frozen=True)
class Loading:
    """One reduced feature in terms of the features it is made of.

    Attributes:
        columns: the features [k].
        component: the PCA component's row [k] (1 at the feature itself without PCA).
        per_deviation: change of the reduced feature when a feature rises by one of its standard deviations [k].
    """

    columns: list[FeatureColumn]
    component: Floats
    per_deviation: Floats


class Reducer:
    """Reduction of a feature matrix, part by part.

    Args:
        columns: of the matrix [d].
        settings: PCA sizes and whether to scale first. A size of 0 keeps the part's scaled features as they are.

    Attributes:
        parts_: what `fit` learned, one per (block, signal) with a column left.
    """

    def __init__(self, columns: Sequence[FeatureColumn], settings: ReductionSettings) -> None:
        self.columns = list(columns)
        self.settings = settings
        self.parts_: list[PartReduction] = []

    def fit(self, values: Matrix) -> Reducer:
        """Learn from training rows [n, d].

        Raises:
            UsageError: no column of any part varies.
        """
        numbers: dict[tuple[str, str], list[int]] = {}
        for number, column in enumerate(self.columns):
            numbers.setdefault((column.block, column.signal), []).append(number)
        fitted = [self._fit_part(values, *part, np.array(own, np.int64)) for part, own in numbers.items()]
        self.parts_ = [part for part in fitted if part.size]
        self._nothing_left = [part for part in fitted if not part.size]
        if not self.parts_:
            msg = f"no feature varies over the {len(values):,} training clips: {'; '.join(p.summary() for p in fitted)}"
            raise UsageError(msg)
        return self

    def _fit_part(self, values: Matrix, block: str, signal: str, columns: npt.NDArray[np.int64]) -> PartReduction:
        names = np.array([self.columns[number].name for number in columns], object)
        count, mean, deviation = _moments(values, columns)
        empty = count == 0
        constant = ~empty & (deviation <= CONSTANT * np.abs(mean))
        kept = ~empty & ~constant
        mean, deviation = mean[kept], deviation[kept]
        scale = deviation if self.settings.scale_first else np.ones(len(mean))
        wanted = self.settings.components.get(block, self.settings.default_components)
        part = PartReduction(
            block=block,
            signal=signal,
            columns=columns[kept],
            names=tuple(names[kept]),
            empty=tuple(names[empty]),
            constant=tuple(names[constant]),
            mean=mean,
            scale=scale,
            deviation=deviation,
            components=None,
            spread=deviation / scale,
            explained=np.empty(0),
        )
        if not kept.any() or not wanted:
            return part
        components, variances, total = principal_components(
            lambda start, stop: part.center(values[start:stop]), len(values), part.size, wanted, self.settings.seed
        )
        learned = {"components": components, "spread": np.sqrt(variances), "explained": variances / total}
        return PartReduction(**(vars(part) | learned))

    def transform(self, values: Matrix) -> Matrix:
        """Reduced features float32 [n, reduced] of matrix rows [n, d], parts side by side."""
        return np.concatenate([part.transform(values) for part in self.parts_], axis=1)

    @property
    def names(self) -> list[str]:
        """Names of the reduced features: `block.signal.pc000`, or the feature's own without PCA."""
        found = []
        for part in self.parts_:
            own = part.names if part.components is None else [f"pc{i:03d}" for i in range(part.size)]
            found += [f"{part.block}.{part.signal}.{name}" for name in own]
        return found

    def back_project(self, feature: int) -> Loading:
        """What the reduced feature number `feature` is made of.

        Raises:
            IndexError: no such reduced feature.
        """
        for part in self.parts_:
            if feature < part.size:
                row = np.eye(part.size)[feature] if part.components is None else part.components[feature]
                effect = row * part.deviation / part.scale / part.spread[feature]
                return Loading([self.columns[number] for number in part.columns], row, effect)
            feature -= part.size
        msg = f"there are {sum(part.size for part in self.parts_)} reduced features"
        raise IndexError(msg)

    def summary(self) -> list[str]:
        """For a person: a line per part."""
        return [part.summary() for part in (*self.parts_, *self._nothing_left)]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything learned that is numbers, for safetensors."""
        found: dict[str, npt.NDArray[Any]] = {}
        for i, part in enumerate(self.parts_):
            for name in ("columns", "mean", "scale", "deviation", "spread", "explained"):
                found[f"{i}.{name}"] = getattr(part, name)
            if part.components is not None:
                found[f"{i}.components"] = part.components
        return found

    def facts(self) -> dict[str, Any]:
        """Everything else, for JSON."""
        parts = [
            {"block": part.block, "signal": part.signal, "empty": list(part.empty), "constant": list(part.constant)}
            for part in self.parts_
        ]
        columns = [[column.block, column.signal, column.name] for column in self.columns]
        return {"columns": columns, "parts": parts}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Reducer:
        """The reducer that gave these facts and arrays; its settings are not part of them."""
        made = cls([FeatureColumn(*column) for column in facts["columns"]], ReductionSettings())
        made._nothing_left = []
        for i, part in enumerate(facts["parts"]):
            numbers = arrays[f"{i}.columns"]
            names = ("mean", "scale", "deviation", "spread", "explained")
            own: dict[str, Any] = {name: np.asarray(arrays[f"{i}.{name}"]) for name in names}
            made.parts_.append(
                PartReduction(
                    block=part["block"],
                    signal=part["signal"],
                    columns=np.asarray(numbers),
                    names=tuple(made.columns[number].name for number in numbers),
                    empty=tuple(part["empty"]),
                    constant=tuple(part["constant"]),
                    components=arrays.get(f"{i}.components"),
                    **own,
                )
            )
        return made


def _moments(values: Matrix, columns: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Count, mean and standard deviation of the finite values of some columns, in two passes of chunks."""
    count, total = np.zeros(len(columns)), np.zeros(len(columns))
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK, columns].astype(np.float64)
        finite = np.isfinite(chunk)
        count += finite.sum(axis=0)
        total += np.where(finite, chunk, 0).sum(axis=0)
    mean = total / np.maximum(count, 1)
    squares = np.zeros(len(columns))
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK, columns].astype(np.float64) - mean
        squares += np.where(np.isfinite(chunk), chunk, 0).__pow__(2).sum(axis=0)
    # Imputed values count as rows without spread, as they do for whatever follows an imputer.
    return count, mean, np.sqrt(squares / max(len(values), 1))
