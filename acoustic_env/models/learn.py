"""From a clip list, a store and a recipe to a bundle: what `train`, `tune` and `study` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.clips.select import Targets, class_targets, select
from acoustic_env.clips.splits import Split, split
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.models.bundle import Bundle, clips_hash, keys, library_versions
from acoustic_env.models.calibrate import fit_calibration
from acoustic_env.models.classifier import Examples, fit_ensemble
from acoustic_env.models.cross_val import out_of_fold
from acoustic_env.models.crossfit import choose_thresholds, cross_fit, judged_parts
from acoustic_env.models.evaluate import Floats
from acoustic_env.models.matrix import FeatureMatrix, Store, load_matrix
from acoustic_env.models.performance import Performance, performance
from acoustic_env.models.reduce import Reducer

Say = Callable[[str], None]

# A study goes on without the few clips that failed in extraction, not without a block.
MAX_ABSENT: Final = 0.05
# How a bundle's figures on held-out clips were made; bundles without it had them from single members.
PROTOCOL: Final = "cross-fitted"


@dataclass(frozen=True)
class Study:
    """Everything a training needs, rows aligned.

    Attributes:
        recipe: of the study.
        clips: the clips that take part, with `class`.
        targets: what to learn.
        matrix: the features.
        split: which rows train, validate and test.
        groups: int64 [n], code of each clip's group.
    """

    recipe: Recipe
    clips: pa.Table
    targets: Targets
    matrix: FeatureMatrix
    split: Split
    groups: npt.NDArray[np.int64]

    @property
    def learning(self) -> npt.NDArray[np.int64]:
        """Rows that train or validate."""
        return np.sort(np.concatenate([self.split.train, self.split.validation]))


def prepare(
    clips: pa.Table,
    store: Store,
    recipe: Recipe,
    *,
    blocks: Sequence[str] = (),
    signals: Sequence[str] = (),
    fingerprints: Mapping[str, Sequence[str]] | None = None,
    say: Say = print,
) -> Study:
    """Apply the recipe, join the features, split; checked for leaks.

    Args:
        clips: a clip list.
        store: feature store.
        recipe: of the study.
        blocks, signals: instead of the recipe's.
        fingerprints: block -> versions, where the store has several.
        say: told what was left out, a line at a time.

    Raises:
        UsageError: nothing to learn, a block missing for many clips, or a split that leaks.
    """
    selection = select(clips, recipe)
    for line in selection.summary():
        say(line)
    chosen = tuple(blocks) or tuple(recipe.blocks)
    matrix = load_matrix(
        store, selection.clips["clip_id"].to_pylist(), chosen, tuple(signals) or recipe.signals, fingerprints
    )
    kept, matrix = without_absent(selection.clips, matrix, say)
    targets = class_targets(kept, recipe, selection.classes if recipe.classes else None)
    parts = split(kept, recipe.split)
    _refuse_one_sided(recipe, targets, parts)
    _, groups = np.unique(np.array(kept["group"].to_pylist(), object), return_inverse=True)
    roles = {"training": parts.train, "validation": parts.validation, "test": parts.test}
    say(", ".join(f"{len(rows):,} {role}" for role, rows in roles.items()) + " clips, no group in two folds")
    return Study(recipe, kept, targets, matrix, parts, groups.astype(np.int64))


def without_absent(clips: pa.Table, matrix: FeatureMatrix, say: Say) -> tuple[pa.Table, FeatureMatrix]:
    """The clips that have a row in every block.

    Raises:
        UsageError: more than 5 % lack a row of a block.
    """
    complete = matrix.complete()
    for line in matrix.summary():
        say(line)
    if complete.all():
        return clips, matrix
    if (~complete).mean() > MAX_ABSENT:
        msg = (
            f"{(~complete).sum():,} of {len(complete):,} clips lack a block: {'; '.join(matrix.summary())}. "
            "Extract them, or leave the block out with --blocks"
        )
        raise UsageError(msg)
    say(f"left out: {(~complete).sum():,} clips that lack a block")
    return clips.filter(pa.array(complete)), matrix.take(complete)


def _refuse_one_sided(recipe: Recipe, targets: Targets, parts: Split) -> None:
    if not len(parts.validation):
        msg = f"recipe {recipe.name}: `split: validation_folds` is empty; stopping needs a validation fold"
        raise UsageError(msg)
    if recipe.task == "multilabel":
        return
    for role, rows in (("training", parts.train), ("validation", parts.validation)):
        present = np.unique(targets.y[rows])
        if len(present) < 2:
            only = targets.classes[int(present[0])]
            msg = f"recipe {recipe.name}: all {len(rows):,} {role} clips are {only!r}; each part needs two classes"
            raise UsageError(msg)


def fit_reducer(study: Study) -> Reducer:
    """The reduction of a study, fitted on its training rows; with an ensemble whose members stop on each fold in turn,
    on every row that trains one of them. Never on test rows."""
    rows = study.learning if study.recipe.model.ensemble > 1 else study.split.train
    return Reducer(study.matrix.columns, study.recipe.reduction).fit(study.matrix.values[rows])


def train(study: Study, say: Say = print, trainer: Callable[..., Any] | None = None) -> tuple[Bundle, Performance]:
    """Reduce, fit, calibrate and choose thresholds, all on training and validation rows; test rows are not looked at.

    The bundle ships the mean of its members. Calibration, thresholds and figures are of such a mean: the reduction and
    the members are fitted again without each of up to five parts of the rows, which are then judged (`crossfit`). That
    costs up to four times the training of the shipped members; from 5,000 judged rows on less.

    Args:
        study: from `prepare`.
        say: told what came of the reduction.
        trainer: where an MLP trains; None for this process.

    Returns:
        The bundle, and the performance of its procedure on rows held out from all of it.
    """
    recipe, rows = study.recipe, study.learning
    reducer = fit_reducer(study)
    for line in reducer.summary():
        say(line)
    y, groups, folds = study.targets.y[rows], study.groups[rows], study.split.folds[rows].astype(np.int64)
    data = Examples(reducer.transform(study.matrix.values[rows]), y, groups)
    classes = study.targets.classes
    ensemble = fit_ensemble(
        recipe.model, recipe.task, len(classes), data, folds, recipe.split.validation_folds, trainer
    )
    held, said = _held_out(study, y, groups, folds, trainer)
    calibration = fit_calibration(recipe.task, y[held], said)
    thresholds = choose_thresholds(recipe.task, y[held], calibration.apply(said))
    calibrated, by_row = cross_fit(recipe.task, y[held], said, groups[held], recipe.model.seed)
    judged = performance(recipe.task, classes, y[held], said, groups[held], by_row, calibrated)
    judged = replace(judged, threshold=float(thresholds[-1]) if recipe.task == "binary" else float("nan"))
    clip_ids = [study.targets.clip_ids[row] for row in rows]
    groups_seen = study.clips["group"].take(pa.array(rows)).to_pylist()
    bundle = Bundle(
        recipe=recipe.replace(blocks={block: recipe.blocks.get(block, {}) for block in study.matrix.fingerprints}),
        classes=classes,
        reducer=reducer,
        classifier=ensemble.members[0] if len(ensemble.members) == 1 else ensemble,
        calibration=calibration,
        thresholds=thresholds,
        fingerprints=study.matrix.fingerprints,
        metrics={**judged.as_json(), "protocol": PROTOCOL},
        training_hash=clips_hash(clip_ids, y),
        trained_on=np.unique(keys([*clip_ids, *groups_seen])),
        trained_groups=np.unique(np.column_stack([keys(clip_ids), keys(groups_seen)]), axis=0),
        versions=library_versions(),
    )
    return bundle, judged


def _held_out(
    study: Study,
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    folds: npt.NDArray[np.int64],
    trainer: Callable[..., Any] | None,
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which of the learning rows were judged [n], and what ensembles that never saw them said of these."""
    model = study.recipe.model
    part, parts = judged_parts(y, groups, folds, model.seed)
    said = out_of_fold(
        study.matrix.values[study.learning],
        y,
        groups,
        model.kind,
        model,
        part,
        model.seed,
        classes=len(study.targets.classes),
        reduction=lambda: Reducer(study.matrix.columns, study.recipe.reduction),
        judged=parts,
        trainer=trainer,
    )
    held = np.isin(part, parts)
    return held, said[held]


def evaluate_bundle(bundle: Bundle, clips: pa.Table, store: Store, say: Say = print) -> tuple[Performance, str]:
    """A bundle on clips it has not seen; those it has, or whose group it has, are left out.

    Returns:
        The performance, and the hash of the clips judged.

    Raises:
        UsageError: no clip is left, a label outside the bundle's classes, or features of another version.
    """
    selection = select(clips, bundle.recipe)
    for line in selection.summary():
        say(line)
    kept = selection.clips
    seen = bundle.seen(kept["clip_id"].to_pylist(), kept["group"].to_pylist())
    if seen.all():
        msg = (
            f"the bundle was trained on all {len(seen):,} clips of the list, or on their groups; evaluate it on others"
        )
        raise UsageError(msg)
    if seen.any():
        say(f"left out: {seen.sum():,} clips the bundle was trained on")
        kept = kept.filter(pa.array(~seen))
    matrix = bundle_matrix(bundle, kept["clip_id"].to_pylist(), store)
    kept, matrix = without_absent(kept, matrix, say)
    targets = class_targets(kept, bundle.recipe, bundle.classes)
    _, groups = np.unique(np.array(kept["group"].to_pylist(), object), return_inverse=True)
    raw = bundle.raw_proba(matrix)
    judged = performance(
        bundle.recipe.task,
        bundle.classes,
        targets.y,
        raw,
        groups,
        bundle.thresholds,
        bundle.calibration.apply(raw),
    )
    return judged, clips_hash(targets.clip_ids, targets.y)


def bundle_matrix(bundle: Bundle, clip_ids: Sequence[str], store: Store) -> FeatureMatrix:
    """The features a bundle needs, for some clips: the version trained on where the store has it, else what it has,
    which `Bundle.check` then refuses by name."""
    signals: list[Any] = list(dict.fromkeys(column.signal for column in bundle.reducer.columns))
    versions: dict[str, list[str]] = {}
    for block, trained in bundle.fingerprints.items():
        versions[block] = list(dict.fromkeys(trained.values()))
        try:
            store.resolve(block, signals, versions[block])
        except UsageError:
            versions[block] = []
    return bundle.check(load_matrix(store, clip_ids, list(bundle.fingerprints), signals, versions))
