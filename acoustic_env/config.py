"""Typed, validated settings: recipes (a study as a YAML file) and the options of the extraction job."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from acoustic_env.errors import UsageError

RECIPES: Final = Path(__file__).parent / "recipes"

Task = Literal["binary", "multiclass", "multilabel"]
ModelKind = Literal["mlp", "xgboost", "logistic"]
T = TypeVar("T")


@dataclass(frozen=True)
class ClassSettings:
    """One class of a study: a clip is of the class when it carries any of the labels.

    Attributes:
        labels: label ids or names as they stand in the clip list.
        descendants_of: ontology ids whose descendants (and themselves) count as well.
    """

    labels: tuple[str, ...] = ()
    descendants_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExcludeSettings:
    """Clips left out of a study: those that carry one of the labels, or with `descendants` anything below them."""

    labels: tuple[str, ...] = ()
    descendants: bool = True


@dataclass(frozen=True)
class SplitSettings:
    """How clips without a given fold are split: stratified by class, groups never split.

    `test_folds` and `validation_folds` name folds; the rest is for training.
    """

    folds: int = 10
    validation_folds: tuple[int, ...] = (8,)
    test_folds: tuple[int, ...] = (9,)
    seed: int = 23


@dataclass(frozen=True)
class ReductionSettings:
    """PCA of each (block, signal), fitted on training folds.

    Attributes:
        scale_first: standardise features before PCA (the source system did not).
        components: per block, a number of components (int), a share of variance in (0, 1), or 0 for the scaled features
            themselves; blocks not named keep `default_components`.
        default_components: for blocks not named. The components are scaled after PCA, so the last count as much as the
            first: with fewer clips than columns a share of 0.99 keeps mostly noise (ESC-10, mn04, MLP: macro F1 0.788
            against 0.959 with 0.95).
        seed: of the randomised solver.
    """

    scale_first: bool = True
    components: Mapping[str, float] = field(default_factory=dict)
    default_components: float = 0.95
    seed: int = 23


@dataclass(frozen=True)
class ModelSettings:
    """The classifier and how it is trained.

    Attributes:
        kind: mlp, xgboost or logistic.
        layers: hidden units of each MLP layer.
        activation: relu or tanh.
        dropout: on the input and after every hidden layer, in [0, 1).
        learning_rate: of Adam.
        weight_decay: of AdamW, 0 for none.
        batch_size: rows a step.
        max_epochs: upper bound; training stops `patience` epochs after the best validation score.
        patience: epochs without improvement.
        ensemble: models trained with successive seeds whose probabilities are averaged.
        workers: Ray Train workers; 0 trains in this process with the same code.
        seed: of weights, dropout and order.
    """

    kind: ModelKind = "mlp"
    layers: tuple[int, ...] = (240,)
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 15
    ensemble: int = 1
    workers: int = 0
    seed: int = 23


@dataclass(frozen=True)
class AuditSettings:
    """The label audit: folds of the out-of-fold witnesses and which models witness.

    Attributes:
        folds: grouped folds of the out-of-fold predictions, at least 3.
        witnesses: models that predict out of fold; `neighbours` is the nearest-neighbour check.
        neighbours: how many.
        seed: of folds and samples.
    """

    folds: int = 5
    witnesses: tuple[str, ...] = ("mlp", "xgboost", "logistic", "neighbours")
    neighbours: int = 25
    seed: int = 23


@dataclass(frozen=True)
class Recipe:
    """One study.

    Attributes:
        name: the recipe's name.
        task: binary (the first class is the negative, the second the positive), multiclass or multilabel.
        classes: class name -> which labels make it; empty for multiclass and multilabel: every label is a class.
        exclude: clips left out.
        signals: signals of each clip.
        blocks: block name -> its options.
        split, reduction, model, audit: the settings of those rooms.
    """

    name: str
    task: Task = "binary"
    classes: Mapping[str, ClassSettings] = field(default_factory=dict)
    exclude: ExcludeSettings = field(default_factory=ExcludeSettings)
    signals: tuple[Literal["raw", "fg", "bg"], ...] = ("raw", "fg", "bg")
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"indices": {}, "mps": {}})
    split: SplitSettings = field(default_factory=SplitSettings)
    reduction: ReductionSettings = field(default_factory=ReductionSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)


@dataclass(frozen=True)
class ExtractSettings:
    """One run of the extraction job.

    Attributes:
        clips: URL of the clip list.
        store: URL of the feature store.
        recipe: recipe whose signals and blocks (with their options) are the defaults; None for the two below.
        signals: signals of each clip; empty takes the recipe's.
        blocks: feature blocks; empty takes the recipe's.
        engine: fast or reference.
        device: where networks and the modulation spectrum run; auto takes a GPU where there is one.
        limit: only the first so many clips of the list; None for all.
        retry_errors: try again clips whose error was permanent.
        max_error_rate: share of the list's clips that may fail before the run ends with exit code 3, 0 to 1.
        address: Ray cluster to join; None joins the one of RAY_ADDRESS or starts a local one.
        dry_run: print the plan and stop.
        relocated: each OLD=NEW, two prefixes of locations: the audio below OLD, which rows were computed from, is now
            below NEW, the same files.
    """

    clips: str
    store: str
    recipe: str | None = None
    signals: tuple[Literal["raw", "fg", "bg"], ...] = ()
    blocks: tuple[str, ...] = ()
    engine: Literal["fast", "reference"] = "fast"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    limit: int | None = None
    retry_errors: bool = False
    max_error_rate: float = 0.05
    address: str | None = None
    dry_run: bool = False
    relocated: tuple[str, ...] = ()


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A settings dataclass from plain data, every key and type checked.

    Args:
        kind: the dataclass.
        values: as read from YAML or JSON.
        where: file and place, for the message.

    Raises:
        UsageError: an unknown key, a missing one, or a value of the wrong type; says where and what is allowed.
    """
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        msg = f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(names)}"
        raise UsageError(msg)
    converted = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**converted)
    except TypeError as error:
        msg = f"{where}: {error}"
        raise UsageError(msg) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, _expect(value, Mapping, where, "a mapping"), where)
    if origin is Literal:
        if value not in arguments:
            msg = f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}"
            raise UsageError(msg)
        return value
    if origin is tuple:
        items = _expect(value, (list, tuple), where, "a list")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        items = _expect(value or {}, Mapping, where, "a mapping")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in items.items()}
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # an int stays one: 20 components is not a share of 20.0
    if hint is int and isinstance(value, bool):
        value = str(value)
    return _expect(value, hint, where, f"of type {getattr(hint, '__name__', hint)}")


def _expect(value: Any, kind: Any, where: str, described: str) -> Any:
    if not isinstance(value, kind):
        msg = f"{where}: {value!r} is not {described}"
        raise UsageError(msg)
    return value
