"""Preprocessing of features: impute, scale, PCA and scale each (block, signal), in pipelines of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import linalg
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import Recipe, ReductionSettings
from acoustic_env.errors import UsageError
from acoustic_env.features.tolerances import rounding_floor
from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.data.cut import Cut
from acoustic_env.models.data.matrix import FeatureColumn
from acoustic_env.stats.intervals import Floats

Matrix = npt.NDArray[np.float32]

# A column that varies by less than this share of its mean does so by rounding only.
CONSTANT: Final = 1e-6
# Why a column is left out; its code is 1 and up.
REASONS: Final = ("without any value", "constant", "rounding noise")
# Components below this share of the first one's variance are rounding.
NEGLIGIBLE: Final = 1e-10
# Up to so many columns (or rows, where these are fewer) PCA is exact.
EXACT: Final = 3000
# Above, up to so many components are found by the randomized solver; where they are too few for a share, all exactly.
SKETCHED: Final = 256
CHUNK: Final = 2048
SHOWN: Final = 5


class MeanImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Replace values that are not finite by the mean of the column, in double precision; 0 in an empty column.

    >>> MeanImputer().fit_transform(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [[1.0, 0.0], [3.0, 0.0]]
    """

    def fit(self, X: Any, y: Any = None) -> MeanImputer:
        """Learn the mean of the finite values of each column of [n, features]."""
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite=False)
        finite = np.isfinite(X)
        self.mean_ = np.where(finite, X, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
        return self

    def transform(self, X: Any) -> Floats:
        """Return imputed values, float64 [n, features]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite=False, copy=True, reset=False)
        return np.asarray(np.where(np.isfinite(X), X, self.mean_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class PrincipalComponents(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """PCA with at most the components that the rows have: scikit-learn's, less those whose variance is rounding.

    Args:
        n_components: a number of components, or a share of variance in (0, 1).
        random_state: seed of the randomized solver, which serves more than 3,000 rows and columns where 256 components
            are enough.

    Attributes:
        components_: [components, features], the largest weight of each positive.
        mean_: [features].
        explained_variance_ratio_: [components].

    >>> X = np.outer(np.arange(10.0), [3.0, 4.0])
    >>> pca = PrincipalComponents(n_components=2).fit(X)
    >>> pca.components_.round(2).tolist(), pca.transform(X).shape
    ([[0.6, 0.8]], (10, 1))
    """

    def __init__(self, n_components: float = 0.95, random_state: Any = None) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> PrincipalComponents:
        """Find the components of rows [n, features]."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.mean_ = X.mean(axis=0)
        X = X - self.mean_
        total, share = float(np.vdot(X, X)), self.n_components < 1
        few = share or self.n_components <= SKETCHED
        variances, components = _randomized(X, self.random_state) if min(X.shape) > EXACT and few else _exact(X)
        if share and len(variances) == SKETCHED and variances.sum() < self.n_components * total:
            variances, components = _exact(X)
        ratio = variances[variances > NEGLIGIBLE * variances[0]] / (total or 1)
        reached = int(np.searchsorted(np.cumsum(ratio), self.n_components * (1 - 1e-12))) + 1
        count = min(reached if share else int(self.n_components), len(ratio))
        found = components(count)
        signs = np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])
        self.components_, self.explained_variance_ratio_ = found * signs[:, None], ratio[:count]
        return self

    def transform(self, X: Any) -> Floats:
        """Return the components' scores [n, components]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray((X - self.mean_) @ self.components_.T)

    @property
    def _n_features_out(self) -> int:  # of ClassNamePrefixFeaturesOutMixin
        return len(self.components_)


def _exact(centered: Floats) -> tuple[Floats, Callable[[int], Floats]]:
    """Return all variances (times rows), largest first, and what gives so many components.

    Of fewer rows than columns by the products of rows: a tenth of the time of their SVD.
    """
    wide = len(centered) < centered.shape[1]
    variances, vectors = linalg.eigh(centered @ centered.T if wide else centered.T @ centered)
    variances, vectors = variances[::-1], vectors[:, ::-1]

    def components(count: int) -> Floats:
        first = vectors[:, :count]
        return np.asarray((first / np.sqrt(variances[:count])).T @ centered if wide else first.T)

    return variances, components


def _randomized(centered: Floats, random_state: Any) -> tuple[Floats, Callable[[int], Floats]]:
    """Return the largest `SKETCHED` variances (times rows), within 1e-4, and what gives so many components.

    As many again are sought and dropped, since the last of a sketch are the least accurate.
    """
    _, singular, found = randomized_svd(
        centered.astype(np.float32), SKETCHED, n_oversamples=SKETCHED, n_iter=5, random_state=random_state
    )
    return singular.astype(np.float64) ** 2, lambda count: found[:count].astype(np.float64)


@dataclass(frozen=True)
class Part:
    """What was learned of one (block, signal).

    Attributes:
        block, signal: which.
        columns: numbers of the matrix columns kept, int64 [k].
        names: their names in the block.
        left_out: reason -> names of the columns left out for it (`REASONS`).
        deviation: standard deviation of each kept column [k].
        steps: the fitted pipeline; None where no column is kept.
    """

    block: str
    signal: str
    columns: npt.NDArray[np.int64]
    names: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    deviation: Floats
    steps: Pipeline | None

    @property
    def _pca(self) -> PrincipalComponents | None:
        return None if self.steps is None else self.steps.named_steps.get("pca")

    @property
    def components(self) -> Floats | None:
        """Rows are components [c, k]; None where the scaled features themselves are kept."""
        return None if self._pca is None else self._pca.components_

    @property
    def explained(self) -> Floats:
        """Share of the part's (scaled) variance of each component [c]."""
        return np.empty(0) if self._pca is None else self._pca.explained_variance_ratio_

    @property
    def size(self) -> int:
        """Preprocessed features of the part."""
        return len(self.columns) if self.components is None else len(self.components)

    @property
    def scale(self) -> Floats:
        """What each kept column is divided by before PCA [k]."""
        own = None if self.steps is None else getattr(self.steps.named_steps["scale"], "scale_", None)
        return np.ones(len(self.columns)) if own is None else own

    @property
    def component_std(self) -> Floats:
        """Standard deviation of each component's score [c]; ones without PCA."""
        return np.ones(self.size) if self.components is None or not self.steps else self.steps[-1].scale_

    def center(self, values: Matrix) -> Floats:
        """Return the kept columns of matrix rows, imputed, centered and scaled: float64 [n, k]."""
        assert self.steps is not None
        return np.asarray(self.steps[:2].transform(values[:, self.columns]))

    def summary(self) -> str:
        """Describe what became of the part, human-readable."""
        kind = "features, no PCA" if self.components is None else "components"
        columns = len(self.columns) + sum(len(names) for names in self.left_out.values())
        text = f"{self.block}.{self.signal}: {columns} columns -> {self.size} {kind}"
        if self.components is not None:
            text += f" ({self.explained.sum():.1%} of variance)"
        for reason, names in self.left_out.items():
            more = ", ..." if len(names) > SHOWN else ""
            text += f"; {len(names)} {reason} left out: {', '.join(names[:SHOWN])}{more}"
        return text


@dataclass(frozen=True)
class Loading:
    """One preprocessed feature in terms of the features it is made of.

    Attributes:
        columns: the features [k].
        component: the PCA component's row [k] (1 at the feature itself without PCA).
        per_deviation: change of the preprocessed feature when a feature rises by one of its standard deviations [k].
    """

    columns: list[FeatureColumn]
    component: Floats
    per_deviation: Floats


def make_preprocessor(columns: Sequence[FeatureColumn], recipe: Recipe) -> Preprocessor | KeepFrames:
    """Return the unfitted preprocessing of a recipe: none for a network that reads sequences, which scales itself.

    >>> columns = [FeatureColumn("indices", "raw", name) for name in ("ACI", "NDSI", "BI")]
    >>> make_preprocessor(columns, Recipe(name="r")).components
    {}
    """
    if recipe.model.reads_sequences:
        cut = Cut.of(recipe.windows, columns[0].block, recipe.block_options(columns[0].block)) if recipe.windows else ()
        return KeepFrames([(column.block, column.signal, column.name) for column in columns], tuple(cut))
    return Preprocessor.of(columns, recipe.reduction)


class KeepFrames(TransformerMixin, BaseEstimator):
    """The preprocessing of networks that read sequences: frames as the store has them.

    Args:
        columns: (block, signal, name) of each signal's frames.
        cut: of a `Cut`, how a network cuts clips into windows; empty where it does not.

    Attributes:
        frames_: of a training clip; other clips are cropped or repeated to as many.

    >>> KeepFrames([("logmel_frames", "raw", "frames")]).summary()
    ['logmel_frames.raw: frames, scaled in the network']
    """

    names: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    frames_: int

    def __init__(self, columns: Sequence[Sequence[str]], cut: tuple[Any, ...] = ()) -> None:
        self.columns = columns
        self.cut = cut

    @property
    def feature_columns(self) -> list[FeatureColumn]:
        """One for each signal."""
        return [FeatureColumn(*column) for column in self.columns]

    def fit(self, X: Any, y: Any = None) -> KeepFrames:
        """Learn how many frames a clip has."""
        self.frames_, self._refitted = X.shape[1], X.refitted
        return self

    def transform(self, X: Any) -> Any:
        """Return the sequences with as many frames as training clips have, and the windows to cut them into."""
        found = X.of_frames(self.frames_)
        found.cut = Cut(*self.cut) if self.cut else None
        return found

    def dump_fitted(self) -> bytes:
        """Return the parameters, and how many frames a clip has, as safetensors."""
        return dump_arrays({}, {**self.get_params(), "frames": self.frames_})

    def summary(self) -> list[str]:
        """Describe what is read."""
        lines = [f"{column.block}.{column.signal}: frames, scaled in the network" for column in self.feature_columns]
        if refitted := getattr(self, "_refitted", 0):
            lines.append(f"{refitted:,} clips of the list cropped or repeated to {self.frames_:,} frames")
        return lines


@dataclass(eq=False, repr=False)
class Preprocessor(TransformerMixin, BaseEstimator):
    """Preprocessing of a feature matrix, part by part.

    Args:
        columns: (block, signal, name) of each column of the matrix [d].
        components: block -> number of components, share of variance, or 0 for the scaled features themselves.
        default_components: the same for blocks not named.
        scale_first: scale features to unit variance before PCA.
        random_state: seed of PCA.

    Attributes:
        pipelines_: "block.signal" -> `Pipeline` of each that has a column left.
        mean_, deviation_: of each column [d], missing values imputed.
        left_out_: uint8 [d], code in `REASONS`, from 1, of why a column is left out; 0 for those kept. A column is
            rounding noise where its deviation is at most its `rounding_floor`.

    >>> columns = [("indices", "raw", name) for name in ("ACI", "NDSI", "BI")]
    >>> X = np.random.default_rng(23).normal(size=(20, 3)).astype(np.float32)
    >>> X[:, 1], X[0, 0] = 5, np.nan
    >>> fitted = Preprocessor(columns, {"indices": 0}).fit(X)
    >>> fitted.names, fitted.transform(X).shape
    (['indices.raw.ACI', 'indices.raw.BI'], (20, 2))
    >>> fitted.summary()
    ['indices.raw: 3 columns -> 2 features, no PCA; 1 constant left out: NDSI']
    """

    columns: Sequence[Sequence[str]]
    components: Any = None
    default_components: float = 0.95
    scale_first: bool = True
    random_state: int = 23

    @classmethod
    def of(cls, columns: Sequence[FeatureColumn], settings: ReductionSettings) -> Preprocessor:
        """Return the unfitted preprocessing of a matrix by a recipe's settings."""
        names = [(column.block, column.signal, column.name) for column in columns]
        return cls(names, dict(settings.components), settings.default_components, settings.scale_first, settings.seed)

    @property
    def feature_columns(self) -> list[FeatureColumn]:
        """The columns of the matrix [d]."""
        return [FeatureColumn(*column) for column in self.columns]

    def fit(self, X: Matrix, y: Any = None) -> Preprocessor:
        """Learn from training rows [n, d].

        Raises:
            UsageError: no column of any part varies.
        """
        empty, self.mean_, self.deviation_ = _moments(X)
        floors = [rounding_floor(name) for *_, name in self.columns]
        self.left_out_ = _left_out(empty, self.mean_, self.deviation_, floors)
        self._make_pipelines()
        if not self.pipelines_:
            raise UsageError(f"no feature varies over the {len(X):,} training clips: {'; '.join(self.summary())}")
        for part, pipeline in self.pipelines_.items():
            pipeline.fit(X[:, self.kept_[part]])
        return self

    def _make_pipelines(self) -> None:
        """Make an unfitted pipeline for each part with a column left."""
        self.numbers_: dict[str, list[int]] = {}
        for number, (block, signal, _) in enumerate(self.columns):
            self.numbers_.setdefault(f"{block}.{signal}", []).append(number)
        self.kept_ = {part: [n for n in own if not self.left_out_[n]] for part, own in self.numbers_.items()}
        self.pipelines_ = {part: self._pipeline(part.partition(".")[0]) for part, own in self.kept_.items() if own}

    def _pipeline(self, block: str) -> Pipeline:
        wanted = (self.components or {}).get(block, self.default_components)
        steps = [
            ("impute", MeanImputer()),
            ("scale", StandardScaler(copy=False, with_std=self.scale_first or not wanted)),
        ]
        if wanted:
            steps += [("pca", PrincipalComponents(wanted, self.random_state)), ("rescale", StandardScaler(copy=False))]
        return Pipeline(steps)

    def transform(self, X: Matrix) -> Matrix:
        """Return preprocessed features float32 [n, reduced] of matrix rows [n, d], parts side by side."""
        check_is_fitted(self, "pipelines_")
        out = np.empty((len(X), sum(part.size for part in self.parts)), np.float32)
        for start in range(0, len(X), CHUNK):
            rows = X[start : start + CHUNK]
            parts = [pipeline.transform(rows[:, self.kept_[part]]) for part, pipeline in self.pipelines_.items()]
            out[start : start + CHUNK] = np.hstack(parts)
        return out

    def dump_fitted(self) -> bytes:
        """Return parameters and what `fit` learned as safetensors."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "left_out": self.left_out_,
            "mean": self.mean_,
            "deviation": self.deviation_,
        }
        for part, pipeline in self.pipelines_.items():
            for step, fitted in pipeline.steps:
                learned = {f"{part}/{step}/{name}": value for name, value in vars(fitted).items() if name[-1] == "_"}
                arrays |= {name: np.asarray(value) for name, value in learned.items() if value is not None}
        return dump_arrays(arrays, self.get_params())

    def load_fitted(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Preprocessor:
        """Take over the arrays that `dump_fitted` stored."""
        self.mean_, self.deviation_, self.left_out_ = (arrays[name] for name in ("mean", "deviation", "left_out"))
        self._make_pipelines()
        for name, array in arrays.items():
            part, _, learned = name.partition("/")
            if learned:
                step, _, attribute = learned.partition("/")
                setattr(self.pipelines_[part].named_steps[step], attribute, array if array.ndim else array.item())
        return self

    @property
    def parts(self) -> list[Part]:
        """What was learned of each (block, signal) with a column left."""
        return [part for part in self._all_parts() if part.steps is not None]

    def _all_parts(self) -> list[Part]:
        found = []
        for part, numbers in self.numbers_.items():
            block, _, signal = part.partition(".")
            by_code = {
                code: tuple(self.columns[n][2] for n in numbers if self.left_out_[n] == code)
                for code in range(len(REASONS) + 1)
            }
            left_out = {reason: by_code[code] for code, reason in enumerate(REASONS, start=1) if by_code[code]}
            kept = np.array(self.kept_[part], np.int64)
            steps = self.pipelines_.get(part)
            found.append(Part(block, signal, kept, by_code[0], left_out, self.deviation_[kept], steps))
        return found

    @property
    def names(self) -> list[str]:
        """Names of the preprocessed features: `block.signal.pc000`, or the feature's own without PCA."""
        found = []
        for part in self.parts:
            own = part.names if part.components is None else [f"pc{i:03d}" for i in range(part.size)]
            found += [f"{part.block}.{part.signal}.{name}" for name in own]
        return found

    def back_project(self, feature: int) -> Loading:
        """Return what the preprocessed feature number `feature` is made of.

        Raises:
            IndexError: no such feature.
        """
        for part in self.parts:
            if feature < part.size:
                row = np.eye(part.size)[feature] if part.components is None else part.components[feature]
                effect = row * part.deviation / part.scale / part.component_std[feature]
                return Loading([FeatureColumn(*self.columns[number]) for number in part.columns], row, effect)
            feature -= part.size
        raise IndexError(f"the preprocessing has {len(self.names)} features")

    def summary(self) -> list[str]:
        """Describe each part, human-readable, those without a column left last."""
        return [part.summary() for part in sorted(self._all_parts(), key=lambda part: part.steps is None)]


def load_preprocessor(data: bytes, *, sequences: bool) -> Preprocessor | KeepFrames:
    """Return the preprocessing that `dump_fitted` stored.

    Args:
        data: of the file.
        sequences: whether it is that of a network that reads sequences.

    >>> columns = [("indices", "raw", "ACI"), ("indices", "raw", "BI")]
    >>> X = np.random.default_rng(23).normal(size=(20, 2)).astype(np.float32)
    >>> fitted = Preprocessor(columns).fit(X)
    >>> again = load_preprocessor(fitted.dump_fitted(), sequences=False)
    >>> bool((again.transform(X) == fitted.transform(X)).all())
    True
    """
    arrays, parameters = load_arrays(data)
    if not sequences:
        return Preprocessor(**parameters).load_fitted(arrays)
    frames = parameters.pop("frames")
    found = KeepFrames(**parameters)
    found.frames_ = frames
    return found


def _left_out(
    empty: npt.NDArray[np.bool_], mean: Floats, deviation: Floats, floor: npt.ArrayLike
) -> npt.NDArray[np.uint8]:
    """Return the code of `REASONS` of each column, 0 for those kept."""
    reasons = [empty, deviation <= CONSTANT * np.abs(mean), deviation <= np.asarray(floor)]
    return np.select(reasons, np.arange(1, len(REASONS) + 1, dtype=np.uint8), np.uint8(0))


def _moments(values: Matrix) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Return which columns are empty, and each one's mean and standard deviation, missing values imputed."""
    count, total = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK].astype(np.float64)
        finite = np.isfinite(chunk)
        count += finite.sum(axis=0)
        total += np.where(finite, chunk, 0).sum(axis=0)
    mean, squares = total / np.maximum(count, 1), np.zeros(values.shape[1])
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK].astype(np.float64) - mean
        squares += (np.where(np.isfinite(chunk), chunk, 0) ** 2).sum(axis=0)
    return count == 0, mean, np.sqrt(squares / max(len(values), 1))
