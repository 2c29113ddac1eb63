"""Typed settings with ranges: recipes (a study as a YAML file), and what all settings have in common."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry

RECIPES: Final = Path(__file__).parent / "recipes"

Task = Literal["binary", "multiclass", "multilabel"]
DEFAULT_CLASSIFIER: Final = "mlp"


class Settings(BaseModel):
    """Base of all settings: immutable, every key known, every value checked against its type and range.

    The docstring of an attribute is its help text.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def replace(self, **changes: Any) -> Self:
        """Return these settings with some values changed, checked again.

        Raises:
            UsageError: values that do not go together.
        """
        try:
            return type(self)(**{**dict(self), **changes})
        except ValidationError as error:
            raise _refused(type(self), changes, error, ", ".join(changes)) from error

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain data, as a file holds them."""
        return self.model_dump(mode="json")


S = TypeVar("S", bound=Settings)


class ClassSettings(Settings):
    """One class of a study: a clip is of the class when it carries any of the labels."""

    labels: tuple[str, ...] = ()
    """Label ids or names as they stand in the clip list."""

    descendants_of: tuple[str, ...] = ()
    """Ontology ids whose descendants (and themselves) count as well."""


class ExcludeSettings(Settings):
    """Clips left out of a study."""

    labels: tuple[str, ...] = ()
    """Clips that carry one of these labels are left out."""

    descendants: bool = True
    """Leave out clips with any label below these in the ontology, too."""


class SplitSettings(Settings):
    """How clips without a given fold are split: stratified by class, groups never split.

    `test_folds` and `validation_folds` name folds; the rest is for training.
    """

    folds: int = Field(10, ge=2)
    """Number of folds."""

    validation_folds: tuple[int, ...] = (8,)
    """Folds that tune thresholds and stop training early."""

    test_folds: tuple[int, ...] = (9,)
    """Folds that training never reads."""

    seed: int = Field(23, ge=0)
    """Seed of the assignment."""


def _check_components(value: float) -> float:
    if value < 0 or (isinstance(value, float) and value >= 1):
        raise ValueError(f"{value} is neither a number of components (0, 1, 2, ...) nor a share of variance in (0, 1)")
    return value


Components = Annotated[int | float, AfterValidator(_check_components)]


Level = Literal["window", "clip", "recording"]
Pooling = Literal["mean", "max", "vote", "noisy-or", "learned"]


class WindowSettings(Settings):
    """Overlapping windows of equal length inside clips, for networks on sequences; their probabilities are pooled."""

    length: float = Field(gt=0)
    """Seconds of a window, rounded to frames."""

    hop: float = Field(gt=0)
    """Seconds from window to window, rounded to frames. Frames after the last whole window are dropped."""

    pooling: Pooling = "mean"
    """How probabilities become one: mean, max, vote (share of windows that are of the class), noisy-or (1 minus the
    product of 1 - p), or learned (between mean and max, fitted on validation rows, that of recordings on held-out
    clips)."""

    level: Level = "clip"
    """What calibration, metrics and predictions count: windows, clips, or recordings (the `group` of the list), whose
    clips' probabilities are pooled in the same way."""

    @model_validator(mode="after")
    def _something_to_pool(self) -> Self:
        if self.pooling == "learned" and self.level == "window":
            msg = "learned pooling is fitted to clips and recordings; `level: window` pools none, leave `pooling` out"
            raise ValueError(msg)
        return self


class ReductionSettings(Settings):
    """PCA of each (block, signal), fitted on training folds."""

    scale_first: bool = True
    """Scale features to unit variance before PCA (the source system did not)."""

    components: Mapping[str, Components] = Field(default_factory=dict)
    """Per block a number of components, a share of variance in (0, 1), or 0 for the scaled features themselves."""

    default_components: Components = 0.95
    """For blocks not named. The components are scaled after PCA, so the last count as much as the first: with fewer
    clips than columns a share of 0.99 keeps mostly noise (ESC-10, mn04, MLP: macro F1 0.788 against 0.959)."""

    seed: int = Field(23, ge=0)
    """Seed of the randomized solver."""


# Named here for recipes, defined in models/estimators/, one file each.
CLASSIFIERS: Final[Registry[type[ClassifierSettings]]] = Registry(
    "classifiers",
    "classifier",
    {
        name: f"acoustic_env.models.estimators.{name}:{settings}"
        for name, settings in (
            ("mlp", "MLPSettings"),
            ("xgboost", "XGBoostSettings"),
            ("logistic", "LogisticSettings"),
            ("random_forest", "RandomForestSettings"),
            ("gradient_boosting", "GradientBoostingSettings"),
            ("svm", "SVMSettings"),
            ("knn", "KNNSettings"),
            ("cnn", "CNNSettings"),
            ("resnet", "ResNetSettings"),
            ("attention", "AttentionSettings"),
            ("crnn", "CRNNSettings"),
        )
    },
)


SHARED_SETTINGS: Final = ("ensemble", "seed", "per_class")


class ClassifierSettings(Settings):
    """Settings that every kind of classifier has; a registered kind is a subclass.

    A subclass sets `kind` to its registered name, adds its own settings and implements the methods.
    """

    kind: str
    """Kind of the classifier, a registered name."""

    ensemble: int = Field(1, ge=1)
    """Models trained with successive seeds whose probabilities are averaged."""

    seed: int = Field(23, ge=0)
    """Seed of everything random."""

    per_class: int | None = Field(None, ge=1)
    """Training rows of each class: a random part of larger classes, smaller ones repeated. Default: all rows once."""

    trial_settings: ClassVar[Mapping[str, Any]] = {}
    """What a trial of `tune` sets besides, to take less time than training does."""

    reads_sequences: ClassVar[bool] = False
    """Whether rows are the frames of a block, not its features of whole clips."""

    def own(self) -> dict[str, Any]:
        """Return the settings that only this kind has."""
        return {name: value for name, value in self if name not in ClassifierSettings.model_fields}

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted scikit-learn classifier; see `acoustic_env.models.estimators.fitting` for the contract."""
        raise NotImplementedError

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest values of an Optuna trial, named as the settings, for `features` inputs."""
        raise NotImplementedError

    def at(self, point: Mapping[str, Any]) -> Self:
        """Return these settings at a point of the search space."""
        return self.replace(**point)

    def of_kind(self, kind: str) -> ClassifierSettings:
        """Return the settings of another kind with this ensemble, seed and resampling, its own at their defaults."""
        if kind == self.kind:
            return self
        return CLASSIFIERS.load(kind)(kind=kind, **{name: getattr(self, name) for name in SHARED_SETTINGS})


def classifier_settings(values: Mapping[str, Any]) -> ClassifierSettings:
    """Return the settings of a classifier of `values["kind"]` (default: mlp), checked by the class of that kind.

    Raises:
        UsageError: no such kind.
        pydantic.ValidationError: an unknown setting, or a value of the wrong type or out of range.

    >>> classifier_settings({"kind": "mlp", "layers": [64]}).kind
    'mlp'
    """
    values = {"kind": DEFAULT_CLASSIFIER, **values}
    return CLASSIFIERS.load(str(values["kind"])).model_validate_json(json.dumps(values, default=str))


def _validate_classifier(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return classifier_settings(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


class AuditSettings(Settings):
    """The label audit: the scorers and their out-of-fold predictions."""

    folds: int = Field(5, ge=3)
    """Grouped folds of the out-of-fold predictions, at least 3."""

    scorers: tuple[str, ...] = ("mlp", "xgboost", "logistic", "neighbors")
    """Models that predict out of fold; `neighbors` is the nearest-neighbor check."""

    neighbors: int = Field(25, ge=1)
    """Number of nearest neighbors that vote."""

    seed: int = Field(23, ge=0)
    """Seed of folds and samples."""


class Recipe(Settings):
    """One study."""

    name: str
    """Name of the recipe."""

    task: Task = "binary"
    """binary (the first class is the negative, the second the positive), multiclass or multilabel."""

    classes: Mapping[str, ClassSettings] = Field(default_factory=dict)
    """Class name -> which labels make it; empty for multiclass and multilabel: every label is a class."""

    exclude: ExcludeSettings = Field(default_factory=ExcludeSettings)
    """Clips left out."""

    signals: tuple[str, ...] = ("raw", "fg", "bg")
    """Signals of each clip."""

    variants: tuple[str, ...] = ()
    """Transforms, as in `noise:snr_db=20#1`, whose copies of training clips are learned from, too. Copies are in no
    validation or test rows and are not counted as clips."""

    blocks: Mapping[str, Mapping[str, Any]] = Field(default_factory=lambda: {"indices": {}, "mps": {}})
    """Block name -> its options."""

    split: SplitSettings = Field(default_factory=SplitSettings)
    """How clips are split into folds."""

    reduction: ReductionSettings = Field(default_factory=ReductionSettings)
    """How features are preprocessed."""

    windows: WindowSettings | None = None
    """Windows that networks on sequences cut clips into. Default: none, clips as they are."""

    clip_seconds: float | None = Field(None, gt=0)
    """Seconds of each clip that networks on sequences read, rounded to frames: longer clips are cropped to their start,
    shorter ones repeat their frames. Default: as many frames as most clips of the list have."""

    model: Annotated[SerializeAsAny[ClassifierSettings], BeforeValidator(_validate_classifier)] = Field(
        default_factory=lambda: classifier_settings({})
    )
    """The classifier: its kind and the settings of that kind."""

    audit: AuditSettings = Field(default_factory=AuditSettings)
    """The label audit."""

    @property
    def variant_signals(self) -> tuple[str, ...]:
        """The variants of each signal.

        >>> Recipe(name="r", signals=("raw",), variants=("noise:snr_db=20#1",)).variant_signals
        ('raw+noise:snr_db=20#1',)
        """
        return tuple(f"{signal}+{variant}" for variant in self.variants for signal in self.signals)

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if self.task == "binary" and len(self.classes) > 2:
            msg = f"task binary tells two classes apart, and classes names {len(self.classes)}; set task: multiclass"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_class_to_resample(self) -> Self:
        if self.task == "multilabel" and self.model.per_class is not None:
            msg = "model.per_class draws rows of one class each; a multilabel clip has several. Leave it out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _validation_rows_to_learn_pooling_from(self) -> Self:
        if self.windows and self.windows.pooling == "learned" and getattr(self.model, "patience", 0) is None:
            msg = "windows.pooling learned is fitted on validation rows, of which model.patience null holds out none"
            raise ValueError(msg)
        return self

    @property
    def level(self) -> Level:
        """What calibration, metrics and predictions count."""
        return self.windows.level if self.windows else "clip"

    def block_options(self, block: str) -> Mapping[str, Any]:
        """Return a block's options; NAME_frames without its own has those of NAME.

        >>> Recipe(name="r", blocks={"logmel": {"n_mels": 32}}).block_options("logmel_frames")
        {'n_mels': 32}
        """
        return self.blocks.get(block) or self.blocks.get(block.removesuffix("_frames"), {})


class StudyPaths(Settings):
    """Where the parts of a study are: paths below the study's folder, or any path or URL (`paths` of study.yaml)."""

    clips: str = "clips.parquet"
    """Clip list."""

    store: str = "features"
    """Feature store."""

    bundle: str = "bundle"
    """Trained classifier."""

    audit: str = "audit"
    """Folder of the label audit."""


# What a study has, each at its usual path below the folder.
STUDY_LAYOUT: Final[Mapping[str, str]] = {
    "recipe": "study.yaml",
    **{name: str(field.default) for name, field in StudyPaths.model_fields.items()},
    "duplicates": "duplicates.parquet",
    "explain": "explain",
    "tune": "tune",
    "compare": "compare",
    "predictions": "predictions.parquet",
    "report": "report.html",
    "ranked": "audit/ranked.parquet",
    "sample": "audit/sample.parquet",
    "annotations": "audit/annotations.parquet",
    "labels": "audit/labels",
}


def from_mapping(kind: type[S], values: Mapping[str, Any], where: str, options: Collection[str] = ()) -> S:
    """Return settings made of plain data, every key, type and range checked.

    Args:
        kind: the settings class.
        values: as read from YAML or JSON.
        where: file and place, for the message.
        options: keys that are options of the command line, named in the message as they are there.

    Raises:
        UsageError: an unknown key, a missing one, or a value of the wrong type or out of range; names its path.

    >>> from_mapping(SplitSettings, {"folds": 5}, "recipe.yaml").folds
    5
    """
    try:
        return kind.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _refused(kind, values, error, where, options) from error


def _refused(
    kind: type[Settings], values: Any, error: ValidationError, where: str, options: Collection[str] = ()
) -> UsageError:
    return UsageError("; ".join(_describe(kind, values, issue, where, options) for issue in error.errors()[:3]))


def _describe(kind: type[Settings], values: Any, issue: Any, where: str, options: Collection[str]) -> str:
    path, value = issue["loc"], issue["input"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    at = f"--{path[0].replace('_', '-')}" if path and path[0] in options else ": ".join(filter(None, (where, place)))
    match issue["type"]:
        case "extra_forbidden":
            expected = ", ".join(_section(kind, values, path[:-1]))
            return f"{where}: unknown setting {place!r}; expected one of: {expected}"
        case "missing":
            return f"{where}: setting {place!r} is missing"
        case "value_error":
            return f"{at}: {issue['ctx']['error']}"
    reason = issue["msg"][0].lower() + issue["msg"][1:]
    return f"{at}: {value!r}: {reason}"


def _section(kind: type[Settings], values: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the settings in the section that a path leads to."""
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        kind = next((a for a in nested if issubclass(a, Settings)), kind)
        values = values[part]
        if kind is ClassifierSettings:
            kind = CLASSIFIERS.load(values.get("kind", DEFAULT_CLASSIFIER))
    return list(kind.model_fields)
