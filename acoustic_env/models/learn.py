"""From a clip list, a store and a recipe to a bundle: what `train`, `tune` and `compare` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.fetch import duration_of
from acoustic_env.clips.select import Targets, class_targets, select
from acoustic_env.clips.splits import Split, split
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path
from acoustic_env.models.bundle import Bundle, clips_hash, keys
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.matrix import FeatureMatrix, load_frames, load_matrix
from acoustic_env.models.data.preprocessing import KeepFrames, Preprocessor, make_preprocessor
from acoustic_env.models.data.stored_frames import frames_block
from acoustic_env.models.data.windows import at_level, clip_frames, learn_recordings, per_row, recording_targets
from acoustic_env.models.estimators.fitting import Ensemble, fit_ensemble, stops_on_rows
from acoustic_env.models.novelty import Novelty
from acoustic_env.models.training.on_ray import one_group
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.models.validation.cross_fitting import cross_fit, out_of_fold, predicted_parts
from acoustic_env.models.validation.performance import Performance, performance
from acoustic_env.store.feature_store import FeatureStore

Log = Callable[[str], None]

# A study goes on without the few clips that failed in extraction, not without a block.
MAX_ABSENT: Final = 0.05
SHOWN: Final = 5  # names
TRIED: Final = 100  # training clips, to tell whether the classifier tells clips apart
MEASURED_FILES: Final = 25  # whose length is read where the list has none


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
        variants: features of each variant of the recipe, columns as in `matrix`.
    """

    recipe: Recipe
    clips: pa.Table
    targets: Targets
    matrix: FeatureMatrix
    split: Split
    groups: npt.NDArray[np.int64]
    variants: tuple[FeatureMatrix, ...] = ()

    @property
    def learning(self) -> npt.NDArray[np.int64]:
        """Rows that train or validate."""
        return np.sort(np.concatenate([self.split.train, self.split.validation]))

    def examples(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return some clips to learn from, with their variants, features as they are in the matrix."""
        x, *copies = (matrix.values[rows] for matrix in (self.matrix, *self.variants))
        return Examples(x, self.targets.y[rows], self.groups[rows], variants=tuple(copies))


def prepare(
    clips: pa.Table,
    store: FeatureStore,
    recipe: Recipe,
    *,
    blocks: Sequence[str] = (),
    signals: Sequence[str] = (),
    fingerprints: Mapping[str, Sequence[str]] | None = None,
    log: Log = print,
) -> Study:
    """Apply the recipe, join the features, split; checked for leaks.

    Args:
        clips: a clip list.
        store: feature store.
        recipe: of the study.
        blocks, signals: instead of the recipe's.
        fingerprints: block -> versions, where the store has several.
        log: receives a line for each thing left out.

    Raises:
        UsageError: nothing to learn, a block missing for many clips, or a split that leaks.
    """
    selection = select(clips, recipe)
    for line in selection.summary():
        log(line)
    of_sequences = [name for name in ("windows", "clip_seconds") if getattr(recipe, name)]
    if of_sequences and not recipe.model.reads_sequences:
        given = " and ".join(f"`{name}`" for name in of_sequences)
        msg = f"recipe {recipe.name}: {given} are for networks on sequences; {recipe.model.kind} reads whole clips"
        raise UsageError(msg)
    chosen = tuple(blocks) or tuple(recipe.blocks)
    load: Callable[..., FeatureMatrix] = partial(load_matrix, store, blocks=chosen, fingerprints=fingerprints)
    if recipe.model.reads_sequences:
        frames = clip_frames(recipe, frames_block(chosen[0]))
        load = partial(load_frames, store, blocks=chosen, fingerprints=fingerprints, frames=frames)
    matrix = load(clip_ids=selection.clips["clip_id"].to_pylist(), signals=tuple(signals) or recipe.signals)
    if recipe.model.reads_sequences:
        load = partial(load, frames=matrix.values.shape[1])  # of variants, too
    kept, matrix = without_absent(selection.clips, matrix, log)
    targets = class_targets(kept, recipe, selection.classes if recipe.classes else None)
    parts = split(kept, recipe.split)
    _refuse_one_sided(recipe, targets, parts)
    _tell_of_unlearned(targets, np.concatenate([parts.train, parts.validation]), log)
    if recipe.level == "recording":
        recording_targets(targets.y, kept["group"].to_pylist())
    _, groups = np.unique(np.array(kept["group"].to_pylist(), object), return_inverse=True)
    roles = {"training": parts.train, "validation": parts.validation, "test": parts.test}
    log(", ".join(f"{len(rows):,} {role}" for role, rows in roles.items()) + " clips, no group in two folds")
    study = Study(recipe, kept, targets, matrix, parts, groups.astype(np.int64))
    copies = tuple(_variant(study, variant, load) for variant in recipe.variants)
    if copies:
        log(f"variants of training clips are learned from, too: {', '.join(recipe.variants)}")
    return replace(study, variants=copies)


def _variant(study: Study, variant: str, load: Callable[..., FeatureMatrix]) -> FeatureMatrix:
    """Return the features of a variant of all clips, named as those of the signals themselves.

    Raises:
        UsageError: a clip to learn from has no row.
    """
    matrix = study.matrix
    signals = list(dict.fromkeys(column.signal for column in matrix.columns))
    copies = [f"{signal}+{variant}" for signal in signals]
    found = load(clip_ids=matrix.clip_ids, signals=copies)
    lacking = ~found.complete()[study.learning]
    if lacking.any():
        clip = matrix.clip_ids[study.learning[np.flatnonzero(lacking)[0]]]
        raise UsageError(
            f"variant {variant}: {lacking.sum():,} clips to learn from have no row, {clip!r} first; "
            f"run `acoustic-env extract` with the recipe, or with --signals '{','.join(copies)}'"
        )
    own = {block: dict(zip(signals, versions.values(), strict=True)) for block, versions in found.fingerprints.items()}
    return replace(found, columns=matrix.columns, fingerprints=own, absent={})


def without_absent(clips: pa.Table, matrix: FeatureMatrix, log: Log) -> tuple[pa.Table, FeatureMatrix]:
    """Return the clips that have a row in every block.

    Raises:
        UsageError: more than 5 % lack a row of a block.
    """
    complete = matrix.complete()
    for line in matrix.summary():
        log(line)
    if complete.all():
        return clips, matrix
    if (~complete).mean() > MAX_ABSENT:
        raise UsageError(
            f"{(~complete).sum():,} of {len(complete):,} clips lack a block: {'; '.join(matrix.summary())}. "
            "Extract them, or leave the block out with --blocks"
        )
    log(f"left out: {(~complete).sum():,} clips that lack a block")
    return clips.filter(pa.array(complete)), matrix.take(complete)


def _refuse_one_sided(recipe: Recipe, targets: Targets, parts: Split) -> None:
    if not len(parts.validation):
        raise UsageError(f"recipe {recipe.name}: `split: validation_folds` is empty; stopping needs a validation fold")
    if recipe.task == "multilabel":
        return
    for role, rows in (("training", parts.train), ("validation", parts.validation)):
        present = np.unique(targets.y[rows])
        if len(present) < 2:
            only = targets.classes[int(present[0])]
            msg = f"recipe {recipe.name}: all {len(rows):,} {role} clips are {only!r}; each part needs two classes"
            raise UsageError(f"{msg}: add recordings of another, or name other `split: validation_folds`")


def _tell_of_unlearned(targets: Targets, learning: npt.NDArray[np.int64], log: Log) -> None:
    y = targets.y[learning]
    carried = np.asarray(y.any(axis=0) if y.ndim == 2 else np.isin(np.arange(len(targets.classes)), y))
    if lacking := [name for name, has in zip(targets.classes, carried, strict=True) if not has]:
        more = ", ..." if len(lacking) > SHOWN else ""
        shown = f"{', '.join(lacking[:SHOWN])}{more}"
        log(f"without a clip to learn from, so never predicted: {shown}; check the labels of these classes")


def fit_preprocessor(study: Study) -> Preprocessor | KeepFrames:
    """Fit the preprocessing of a study on its training rows, never on test rows.

    With an ensemble, whose members stop on each fold in turn, it is fitted on every row that trains one of them.
    """
    rows = study.learning if study.recipe.model.ensemble > 1 else study.split.train
    return make_preprocessor(study.matrix.columns, study.recipe).fit(study.matrix.values[rows])


def preprocessed_parts(study: Study) -> tuple[Examples, Examples]:
    """Return the training and the validation rows of a study, preprocessed."""
    transform, parts = fit_preprocessor(study).transform, study.split
    return study.examples(parts.train).map(transform), study.examples(parts.validation).map(transform)


def learning_rows(study: Study) -> Examples:
    """Return the training and validation rows of a study together, preprocessed."""
    return study.examples(study.learning).map(fit_preprocessor(study).transform)


@one_group()
def train(
    study: Study, log: Log = print, *, classifier: Any = None, checkpoints: str | None = None
) -> tuple[Bundle, Performance]:
    """Preprocess, fit, calibrate and choose thresholds, all on training and validation rows.

    The bundle ships the mean of its members. Calibration, thresholds and metrics are of such a mean: the preprocessing
    and the members are fitted again without each of up to five parts of the rows, which are then predicted
    (`out_of_fold`). That costs up to four times the training of the shipped members; from 5,000 predicted rows on less.

    Args:
        study: from `prepare`.
        log: receives the lines of the preprocessing's summary.
        classifier: any scikit-learn classifier with `predict_proba`, instead of the recipe's kind. The ensemble and the
            seed are the recipe's.
        checkpoints: where Ray Train's workers keep checkpoints; None for the memory of the run.

    Returns:
        The bundle, and the performance of its procedure on rows held out from all of it.
    """
    recipe, rows = study.recipe, study.learning
    preprocessor = fit_preprocessor(study)
    for line in preprocessor.summary():
        log(line)
    data, folds = study.examples(rows).map(preprocessor.transform), study.split.folds[rows].astype(np.int64)
    y, groups = data.y, data.groups
    classes, model = study.targets.classes, recipe.model
    members: dict[str, Any] = {"size": model.ensemble, "checkpoints": checkpoints}
    chosen = model if classifier is None else classifier
    part, parts = predicted_parts(y, groups, folds, model.seed)  # too few groups for it are refused before the fit
    ensemble = fit_ensemble(
        chosen, len(classes), data, folds, recipe.split.validation_folds, seed=model.seed, **members
    )
    some = np.unique(np.linspace(0, len(rows) - 1, TRIED).astype(np.int64))
    if not np.ptp(ensemble.predict_proba(data.x[some]), axis=0).any():
        log(f"all clips get the same probabilities: {len(rows):,} clips are too few for it; logistic learns from fewer")
    unseen = out_of_fold(
        study.examples(rows),
        chosen,
        part,
        model.seed,
        classes=len(classes),
        preprocessor=make_preprocessor(study.matrix.columns, recipe),
        predicted=parts,
        **members,
    ).probabilities
    held = np.isin(part, parts)
    recordings = study.clips["group"].take(pa.array(rows[held])).to_pylist()
    of_held = unseen[per_row(held, unseen)]
    y_held, probabilities, held_groups = at_level(recipe, y[held], of_held, recordings)
    calibrator = Calibrator(recipe.task, model.seed).fit(probabilities, y_held, held_groups)
    if members["size"] == 1 and stops_on_rows(ensemble.members[0]):
        calibrator = _adapted(calibrator, ensemble, data, np.isin(folds, recipe.split.validation_folds), study)
    calibrated, by_row = cross_fit(recipe.task, y_held, probabilities, held_groups, model.seed)
    found = performance(recipe.task, classes, y_held, probabilities, held_groups, by_row, calibrated)
    threshold = float(calibrator.thresholds_[-1]) if recipe.task == "binary" else float("nan")
    found = replace(found, threshold=threshold, level=recipe.level)
    clip_ids = [study.targets.clip_ids[row] for row in rows]
    groups_seen = study.clips["group"].take(pa.array(rows)).to_pylist()
    bundle = Bundle(
        recipe=recipe.replace(blocks={block: recipe.block_options(block) for block in study.matrix.fingerprints}),
        classes=classes,
        preprocessor=preprocessor,
        classifier=ensemble,
        calibrator=calibrator,
        fingerprints=study.matrix.fingerprints,
        held_out=found.as_json(),
        training_hash=clips_hash(clip_ids, y),
        trained_on=np.unique(keys([*clip_ids, *groups_seen])),
        trained_groups=np.unique(np.column_stack([keys(clip_ids), keys(groups_seen)]), axis=0),
        own_estimator=classifier is not None,
        variants=_variant_versions(study),
        clip_s=_median_length(study.clips.take(pa.array(rows))),
        novelty=Novelty.fit(data.x, groups, model.seed),
        exponent=learn_recordings(recipe, y[held], of_held, recordings),
    )
    return bundle, found


def _adapted(
    calibrator: Calibrator, ensemble: Ensemble, data: Examples, held: npt.NDArray[np.bool_], study: Study
) -> Calibrator:
    """Return the calibration for the one model that is shipped, from the rows that it stopped on."""
    rows = data.take(held)
    recordings = study.clips["group"].take(pa.array(study.learning[held])).to_pylist()
    y, probabilities, groups = at_level(study.recipe, rows.y, ensemble.predict_proba(rows.x), recordings)
    return calibrator.adapted(probabilities, y, groups)


def _median_length(clips: pa.Table) -> float | None:
    """Return the median length of clips in s, by the list, else of some local files; None if unknown."""
    lengths = pc.subtract(clips["end_s"], pc.coalesce(clips["start_s"], 0.0)).drop_null().to_pylist()
    if not lengths:
        some = np.unique(np.linspace(0, clips.num_rows - 1, MEASURED_FILES).astype(np.int64))
        files = [uri for uri in clips["uri"].take(pa.array(some)).to_pylist() if local_path(uri)]
        lengths = [seconds for uri in files if (seconds := duration_of(uri)) is not None]
    return float(np.median(lengths)) if lengths else None


def _variant_versions(study: Study) -> dict[str, dict[str, str]]:
    """Return block -> variant of a signal -> version."""
    found: dict[str, dict[str, str]] = {}
    for variant, copies in zip(study.recipe.variants, study.variants, strict=True):
        for block, versions in copies.fingerprints.items():
            found.setdefault(block, {}).update({f"{signal}+{variant}": own for signal, own in versions.items()})
    return found


@dataclass(frozen=True)
class UnseenClips:
    """Clips that a bundle was not trained on, with their features; rows aligned.

    Attributes:
        clips: with `class`.
        targets: what they are.
        matrix: the features.
    """

    clips: pa.Table
    targets: Targets
    matrix: FeatureMatrix

    @property
    def hash(self) -> str:
        """`clips_hash` of the clips."""
        return clips_hash(self.targets.clip_ids, self.targets.y)


def unseen_clips(bundle: Bundle, clips: pa.Table, store: FeatureStore, log: Log = print) -> UnseenClips:
    """Return the clips of a list that a bundle can be evaluated on: those it has seen, or whose group, are left out.

    Raises:
        UsageError: no clip is left, a label outside the bundle's classes, or features of another version.
    """
    selection = select(clips, bundle.recipe)
    for line in (*bundle.variant_lines(), *selection.summary()):
        log(line)
    kept = selection.clips
    seen = bundle.seen(kept["clip_id"].to_pylist(), kept["group"].to_pylist())
    if seen.all():
        raise UsageError(
            f"the bundle was trained on all {len(seen):,} clips of the list, or on their groups; evaluate it on others"
        )
    if seen.any():
        log(f"left out: {seen.sum():,} clips the bundle was trained on")
        kept = kept.filter(pa.array(~seen))
    matrix = bundle_matrix(bundle, kept["clip_id"].to_pylist(), store)
    kept, matrix = without_absent(kept, matrix, log)
    return UnseenClips(kept, class_targets(kept, bundle.recipe, bundle.classes), matrix)


def evaluate_bundle(bundle: Bundle, clips: pa.Table, store: FeatureStore, log: Log = print) -> tuple[Performance, str]:
    """Evaluate a bundle on the `unseen_clips` of a list.

    Returns:
        The performance, and the hash of the clips.

    Raises:
        UsageError: as `unseen_clips`.
    """
    unseen = unseen_clips(bundle, clips, store, log)
    raw, recordings = bundle.raw_proba(unseen.matrix), unseen.clips["group"].to_pylist()
    y, raw, groups = at_level(bundle.recipe, unseen.targets.y, raw, recordings, bundle.exponent)
    found = performance(
        bundle.recipe.task,
        bundle.classes,
        y,
        raw,
        groups,
        bundle.calibrator.thresholds_,
        bundle.calibrator.predict_proba(raw),
    )
    return replace(found, level=bundle.recipe.level), unseen.hash


def bundle_matrix(bundle: Bundle, clip_ids: Sequence[str], store: FeatureStore) -> FeatureMatrix:
    """Return the features a bundle needs, for some clips.

    Raises:
        UsageError: the store's features are not those trained on.
    """
    return bundle.check(stored_matrix(bundle, clip_ids, store))


def stored_matrix(
    bundle: Bundle, clip_ids: Sequence[str], store: FeatureStore, *, spooled: bool = False
) -> FeatureMatrix:
    """Return the blocks a bundle needs, for some clips.

    The version trained on where the store has it, else what it has, which `Bundle.check` then refuses by name.

    Args:
        bundle: trained.
        clip_ids: in order.
        store: to read.
        spooled: keep the features on disk (`load_matrix`), frames in the store until they are `held`.
    """
    signals: list[Any] = list(dict.fromkeys(column.signal for column in bundle.preprocessor.feature_columns))
    versions: dict[str, list[str]] = {}
    for block, trained in bundle.fingerprints.items():
        versions[block] = list(dict.fromkeys(trained.values()))
        try:
            store.resolve(block, signals, versions[block])
        except UsageError:
            versions[block] = []
    load: Callable[..., FeatureMatrix] = partial(load_matrix, spooled=spooled)
    if isinstance(bundle.preprocessor, KeepFrames):
        load = partial(load_frames, frames=bundle.preprocessor.frames_, unread=spooled)
    return load(store, clip_ids, list(bundle.fingerprints), signals, versions)
