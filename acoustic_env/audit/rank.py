"""Rank the labels of a study by quality, lowest first, with several scorers.

Every scorer judges each clip out of fold, and their probabilities are pooled with learned weights (`posterior`). There
is one round: a second one, with scorers retrained on softened labels, doubled the work and did not improve average
precision at 5 to 10 % of planted errors (tests/audit/bench_planted.py).

The result orders labels for listening and repair. It is not an error rate, whatever the share of flagged labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.check import (
    DUPLICATES,
    CheckResult,
    confident_flags,
    confident_joint,
    duplicate_sets,
    duplicates_check,
    from_probabilities,
    label_quality,
)
from acoustic_env.audit.intervals import Bools, Floats, Ints
from acoustic_env.audit.neighbors import Neighborhood, find_neighbors
from acoustic_env.audit.posterior import Posterior, score_posterior
from acoustic_env.audit.scorers import LabeledClips, Scorer, load_scorer, read_sequences
from acoustic_env.audit.table import require_columns, table_schema
from acoustic_env.audit.tags import score_by_tags, tag_scores
from acoustic_env.clips.ontology import audioset
from acoustic_env.clips.select import class_targets, recipe_labels, select
from acoustic_env.config import AuditSettings, Recipe, ReductionSettings
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.io.spool import RowFile
from acoustic_env.store.feature_store import FeatureStore, wanted_schema

if TYPE_CHECKING:
    from acoustic_env.audit.scorers import Features
    from acoustic_env.config import ClassifierSettings
    from acoustic_env.models.data.cut import Cut
    from acoustic_env.models.data.frames import Sequences
    from acoustic_env.models.data.matrix import FeatureColumn, FeatureMatrix

MOST_FEATURES: Final = 512  # more are reduced to as many principal components
REDUCE_ROWS: Final = 20_000  # rows the components are fitted on
LABELS: Final = 64  # labels of a multi-label study scored together, if memory allows
PROBABILITIES: Final = 2**26  # most that are held at once
LEARNED: Final = 50_000  # clips that scorers learn from at most; lists of more are ranked by `rank_stream`
TAGGERS: Final = ("panns", "yamnet", "mn04")  # embedders whose column `scores` holds tags
NOT_A_RATE: Final = (
    "this is a ranking: it shows where to listen first. Neither the flagged share nor the mean quality is an error "
    "rate; `audit sample`, `audit listen` and `audit estimate` give one"
)
_DUPLICATES: Final = table_schema(
    dict.fromkeys(("clip_id", "group", "duplicate_of"), pa.string()), nullable=("duplicate_of",)
)


@dataclass(frozen=True)
class Clips:
    """What is known of the clips to rank, the same for all classes.

    Attributes:
        clip_ids: [clips].
        features: float32 [clips, features], scaled and reduced (`prepare`).
        folds: [clips] grouped folds.
        neighborhood: nearest clips of other folds.
        duplicates: [clips] group of duplicates, -1 for none; None when they are unknown.
        tags: scores of taggers by name, [clips, classes of the study]; NaN where absent.
        sequences: frames of the clips, for scorers that read them.
        model: settings of a classifier on sequences, which a scorer of its kind takes.
    """

    clip_ids: npt.NDArray[Any]
    features: Features
    folds: Ints
    neighborhood: Neighborhood
    duplicates: Ints | None = None
    tags: Mapping[str, Floats] = field(default_factory=dict)
    sequences: Sequences | None = None
    model: ClassifierSettings | None = None


@dataclass(frozen=True)
class LabelScores:
    """Scores of the labels of one study, or of one class of a multi-label study.

    Attributes:
        posterior: [clips, classes] pooled probability of each class.
        flagged: [clips] whether the clip is confidently of another class than the given one.
        checks: the result of each scorer.
        information: weights, counts, the confident joint.
    """

    posterior: Floats
    flagged: Bools
    checks: Sequence[CheckResult]
    information: dict[str, Json]


def rank_study(
    clips: pa.Table,
    store: FeatureStore,
    recipe: Recipe,
    *,
    blocks: Sequence[str] = (),
    signals: Sequence[str] = (),
    duplicates: pa.Table | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[pa.Table, dict[str, Json]]]:
    """Yield ranked tables (see `ranking`) with their summaries: one in all, or one per label of a multi-label study.

    Args:
        clips: clip list.
        store: with the features of its clips.
        recipe: classes, reduction, and `audit`: scorers, folds, neighbors, seed; a scorer of the kind of its `model`
            takes the settings of that if it reads frames.
        blocks, signals: to learn from; empty takes the recipe's. Scorers that read frames take those of the one block
            that has any.
        duplicates: of `clips duplicates`: clip_id, group, duplicate_of.
        log: receives which clips are used.

    Raises:
        UsageError: no such scorer, too few clips or groups, or features are missing altogether.
    """
    from acoustic_env.models.data.matrix import load_matrix

    for name in recipe.audit.scorers:
        load_scorer(name)
    selection = select(clips, recipe)
    large = selection.clips.num_rows > LEARNED
    targets = class_targets(selection.clips, recipe, sparse=large)
    wanted, kinds = list(blocks or recipe.blocks), tuple(signals or recipe.signals)
    matrix = load_matrix(store, targets.clip_ids, wanted, kinds, spooled=large)
    frames = _frames(store, targets.clip_ids, wanted, kinds, recipe.audit)
    for line in [*selection.summary(), *matrix.summary(), *(frames.summary() if frames else [])]:
        log(line)
    complete = matrix.complete() & (frames.complete() if frames else True)
    clip_ids = [clip_id for clip_id, has_features in zip(targets.clip_ids, complete, strict=True) if has_features]
    groups, sets = selection.clips.column("group").to_pylist(), None
    if duplicates is not None:
        columns = require_columns(duplicates, _DUPLICATES, "duplicates", "a table of clips duplicates").to_pydict()
        original = zip(columns["clip_id"], columns["duplicate_of"], strict=True)
        sets = duplicate_sets({clip_id: first for clip_id, first in original if first}, clip_ids)
        joined = dict(zip(columns["clip_id"], columns["group"], strict=True))
        groups = [joined.get(clip_id, group) for clip_id, group in zip(targets.clip_ids, groups, strict=True)]
    y, settings = targets.y[complete], recipe.audit
    if large:
        from acoustic_env.audit.rank_stream import Stored, rank_stored

        stored = Stored(clip_ids, np.flatnonzero(complete), y, np.asarray(groups)[complete], matrix, sets)
        if frames:
            frames.values.cut = _cut(recipe, frames)
        tag_files = read_tags(store, recipe, clip_ids, targets.classes, spooled=True)
        yield from rank_stored(stored, recipe, targets.classes, tag_files, frames.values if frames else None)
        return
    features = reduce_blocks(matrix.values[complete], matrix.columns, recipe.reduction)
    tags = {name: found[:] for name, found in read_tags(store, recipe, clip_ids, targets.classes).items()}
    ready = prepare(clip_ids, features, y, np.asarray(groups)[complete], settings, sets, tags)
    if frames:
        sequences = frames.values[complete]
        sequences.cut = _cut(recipe, frames)
        ready = replace(ready, sequences=sequences, model=recipe.model)
    if recipe.task == "multilabel":
        yield from rank_multilabel(ready, y.astype(bool), targets.classes, settings)
    else:
        yield rank_exclusive(ready, y.astype(np.int64), targets.classes, settings)


def _frames(
    store: FeatureStore, clip_ids: Sequence[str], blocks: Sequence[str], signals: Sequence[str], settings: AuditSettings
) -> FeatureMatrix | None:
    """Return the frames of the one block that has any, or None if no scorer reads them.

    Raises:
        UsageError: no block, or several, have frames in the store.
    """
    from acoustic_env.models.data.matrix import load_frames
    from acoustic_env.models.data.stored_frames import frames_block

    readers = read_sequences(settings.scorers)
    if not readers:
        return None
    stored = set(store.blocks())
    found = [block for block in blocks if frames_block(block) in stored]
    if len(found) != 1:
        msg = (
            f"{', '.join(readers)}: reads the frames of one block; of the blocks {', '.join(blocks)} the store has "
            f"frames of {', '.join(found) or 'none'}; "
        )
        raise UsageError(msg + ("name one with --blocks" if found else "extract one with the option `frames: true`"))
    return load_frames(store, clip_ids, found, signals)


def _cut(recipe: Recipe, frames: FeatureMatrix) -> Cut | None:
    """Return how a recipe cuts clips into windows.

    Raises:
        UsageError: learned pooling.
    """
    from acoustic_env.models.data.cut import Cut

    if recipe.windows is None:
        return None
    if recipe.windows.pooling == "learned":
        raise UsageError(
            f"recipe {recipe.name}: `windows: pooling: learned` is fitted on validation rows, which scorers of the "
            "audit have none of; name another pooling in the recipe of the audit"
        )
    block = frames.columns[0].block
    cut = Cut.of(recipe.windows, block, recipe.block_options(block))
    return cut._replace(pooling=recipe.windows.pooling)  # labels are of clips, whatever the recipe counts


def reduce_blocks(values: Features, columns: Sequence[FeatureColumn], reduction: ReductionSettings) -> Features:
    """Reduce features block by block as a recipe requires, so that thousands of columns do not outvote sixty.

    Blocks that the recipe does not name stay whole: of few clips the default would keep nearly every component, and
    scaling makes the last, which is noise, as large as the first.

    Args:
        values: float32 [clips, features]; missing values as NaN.
        columns: of the matrix [features].
        reduction: the recipe's.

    Returns:
        float32 [clips, reduced features].

    Raises:
        UsageError: no feature varies.
    """
    from acoustic_env.models.data.preprocessing import Preprocessor

    return Preprocessor.of(columns, reduction.replace(default_components=0)).fit(values).transform(values)


def prepare(
    clip_ids: Sequence[str],
    features: Features,
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    settings: AuditSettings,
    duplicates: Ints | None = None,
    tags: Mapping[str, Floats] | None = None,
) -> Clips:
    """Scale and reduce the features, assign folds, find the neighbors.

    Args:
        clip_ids: [clips].
        features: float32 [clips, features]; missing values as NaN.
        y: int64 [clips] given classes, or bool [clips, classes] for multi-label.
        groups: [clips] what must stay in one fold (video, recording, duplicates).
        settings: folds, neighbors, seed.
        duplicates: [clips] number of the clip's group of duplicates, -1 for none.
        tags: scores in [0, 1] of taggers trained on other data, by name, [clips, classes].

    Raises:
        UsageError: fewer groups than folds.
    """
    from acoustic_env.models.data.folds import grouped_folds

    scaled = fit_reduction(features, settings.seed)(features)
    folds = grouped_folds(y, groups, settings.folds, settings.seed)
    neighborhood = find_neighbors(scaled, folds, settings.neighbors, settings.seed)
    return Clips(np.asarray(clip_ids), scaled, folds, neighborhood, duplicates, tags or {})


def score_labels(clips: Clips, given: Ints, classes: int, settings: AuditSettings) -> LabelScores:
    """Score the labels of exclusive classes.

    Args:
        clips: from `prepare`.
        given: [clips] 0 to classes - 1.
        classes: how many.
        settings: scorers and seed.

    Raises:
        UsageError: only one class is given, or no scorer has a name of the settings.
    """
    if (np.bincount(given, minlength=classes) > 0).sum() < 2:
        raise UsageError("all clips are given one class; a ranking needs clips of two classes or more")
    scorers = make_scorers(settings, clips.tags)
    found = score_posterior(_labeled(clips, np.eye(classes)[given], True, settings), scorers)
    return label_scores(
        clips.duplicates, given, found.pooled, dict(zip(scorers, found.own, strict=True)), found.shares[:, 0]
    )


def rank_exclusive(
    clips: Clips, given: Ints, classes: Sequence[str], settings: AuditSettings
) -> tuple[pa.Table, dict[str, Json]]:
    """Return the ranked table of a binary or multi-class study (see `ranking`), lowest quality first, and its summary.

    Args:
        clips: from `prepare`.
        given: [clips] index into `classes`.
        classes: names.
        settings: scorers and seed.
    """
    return exclusive_table(clips.clip_ids, given, classes, score_labels(clips, given, len(classes), settings))


def exclusive_table(
    clip_ids: npt.NDArray[Any], given: Ints, classes: Sequence[str], scores: LabelScores
) -> tuple[pa.Table, dict[str, Json]]:
    """Return the ranked table of exclusive classes from their scores, and its summary."""
    # A label that is not given is suspect when the given one is and it is the likeliest in its place.
    others = np.where(np.eye(len(classes), dtype=bool)[given], -1.0, scores.posterior).argmax(axis=1)
    tables = []
    for k, label in enumerate(classes):
        flagged = scores.flagged & ((given == k) | (others == k))
        tables.append(ranked_table(clip_ids, label, given == k, k, scores, flagged, given))
    summary: dict[str, Json] = {"note": NOT_A_RATE, "classes": list(classes), **scores.information}
    return sort_ranked(pa.concat_tables(tables)), summary


def rank_multilabel(
    clips: Clips, given: Bools, classes: Sequence[str], settings: AuditSettings
) -> Iterator[tuple[pa.Table, dict[str, Json]]]:
    """Yield the ranked table and the summary of each class of a multi-label study.

    Some classes are scored together, so memory stays bounded. Classes that fewer clips carry (or lack) than there are
    folds cannot be scored: they come out unflagged with quality and scores 1/2, with a note in their summary.

    Args:
        clips: from `prepare`.
        given: bool [clips, classes].
        classes: names.
        settings: scorers and seed.
    """
    names = list(make_scorers(settings, clips.tags))
    carried = given.sum(axis=0)
    able = np.flatnonzero(np.minimum(carried, len(given) - carried) >= settings.folds)
    together = int(np.clip(PROBABILITIES // (4 * len(names) * len(given)), 1, LABELS))
    for start in range(0, len(classes), together):
        some = able[(able >= start) & (able < start + together)]
        found: Posterior | None = None
        if len(some):
            scorers = make_scorers(settings, {name: scores[:, some] for name, scores in clips.tags.items()})
            found = score_posterior(_labeled(clips, given[:, some].astype(np.float64), False, settings), scorers)
        for k in range(start, min(start + together, len(classes))):
            carries = given[:, k].astype(np.int64)
            if found is not None and k in some:
                place = int(np.searchsorted(some, k))
                own = {name: yes_or_no(each[:, place]) for name, each in zip(names, found.own, strict=True)}
                pooled = yes_or_no(found.pooled[:, place])
                scores = label_scores(clips.duplicates, carries, pooled, own, found.shares[:, place])
            else:
                scores = unscored(clips.duplicates, carries, names, settings)
            table = ranked_table(clips.clip_ids, classes[k], given[:, k], 1, scores, scores.flagged, carries)
            yield sort_ranked(table), {"label": classes[k], **scores.information}


def read_tags(
    store: FeatureStore, recipe: Recipe, clip_ids: Sequence[str], classes: Sequence[str], *, spooled: bool = False
) -> dict[str, Any]:
    """Return the tag scores of the store's embedders that have them, as tags_<block>: [clips, classes], or `RowFile`s.

    Args:
        store: to read.
        recipe: of the study.
        clip_ids: in order.
        classes: of the study.
        spooled: keep them on disk.
    """
    labels = recipe_labels(recipe, audioset()) if recipe.classes else {}
    wanted = [labels.get(name) or audioset().spellings([name]) for name in classes]
    listed = pa.array(clip_ids, pa.string())
    found: dict[str, Any] = {}
    for block in TAGGERS:
        try:
            versions = store.resolve(block, ["raw"])
            schema = wanted_schema(store.joint_schema(block, versions or store.resolve(block)), ["scores"], store.url)
        except UsageError:  # the store has no such block, or several versions of it: no scorer
            continue
        names = json.loads((schema.metadata or {}).get(b"acoustic_env.class_names", b"[]"))
        if tag_scores(schema.empty_table(), names, [], wanted) is None:
            continue
        shape = (len(clip_ids), len(classes))
        into = RowFile(*shape) if spooled else np.full(shape, np.nan)
        for rows, places in store.placed(block, versions, schema, listed):
            scores = tag_scores(rows, names, rows["clip_id"].to_pylist(), wanted)
            assert scores is not None
            if isinstance(into, RowFile):
                into.write(places, scores)
            else:
                into[places] = scores
        found[f"tags_{block}"] = into
    return found


def make_scorers(settings: AuditSettings, tags: Mapping[str, Floats]) -> dict[str, Scorer]:
    tagged: dict[str, Scorer] = {name: partial(score_by_tags, name, scores) for name, scores in tags.items()}
    return {name: load_scorer(name) for name in settings.scorers} | tagged


def _labeled(clips: Clips, target: Floats, exclusive: bool, settings: AuditSettings) -> LabeledClips:
    return LabeledClips(
        clips.features,
        target,
        exclusive,
        clips.folds,
        clips.neighborhood,
        settings.seed,
        clips.sequences,
        clips.model,
    )


def label_scores(
    duplicates: Ints | None, given: Ints, pooled: Floats, own: Mapping[str, Floats], shares: Floats
) -> LabelScores:
    """Compare probabilities [clips, classes], pooled and of each scorer, with the given classes.

    >>> pooled = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    >>> found = label_scores(None, np.array([0, 0, 1, 1]), pooled, {"mlp": pooled}, np.array([1.0]))
    >>> found.flagged.tolist(), found.information["weights"]
    ([False, False, False, True], {'mlp': 1.0})
    """
    flagged = confident_flags(given, pooled)
    checks = [from_probabilities(name, probabilities, given) for name, probabilities in own.items()]
    if duplicates is not None:
        checks.append(duplicates_check(duplicates, given, pooled.shape[1]))
        flagged = flagged | checks[-1].flagged
    information: dict[str, Json] = {
        "clips": len(given),
        "flagged": int(flagged.sum()),
        "weights": dict(zip(own, shares.round(4).tolist(), strict=True)),
        "confident_joint": confident_joint(given, pooled).round(6).tolist(),
        "checks": {check.name: {"value": round(check.summary, 4), **check.information} for check in checks},
    }
    return LabelScores(pooled, flagged, checks, information)


def unscored(duplicates: Ints | None, given: Ints, names: Sequence[str], settings: AuditSettings) -> LabelScores:
    """Return the scores of a label that too few clips carry or lack."""
    half, unflagged = np.full((len(given), 2), 0.5), np.zeros(len(given), dtype=bool)
    checks = [CheckResult(name, half, unflagged, 0.5, {"summary": "too few clips for the folds"}) for name in names]
    if duplicates is not None:
        checks.append(duplicates_check(duplicates, given, 2))
    note = f"fewer than {settings.folds} clips with or without it: not scored"
    return LabelScores(half, unflagged, checks, {"clips": len(given), "flagged": 0, "note": note})


def yes_or_no(positive: Floats) -> Floats:
    """Return the probabilities [clips, 2] of not carrying a label and of carrying it.

    >>> yes_or_no(np.array([0.25, 0.75])).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    return np.stack([1.0 - positive, positive], axis=1)


def ranked_table(
    clip_ids: npt.NDArray[Any], label: str, has: Bools, k: int, scores: LabelScores, flagged: Bools, given: Ints
) -> pa.Table:
    quality = label_quality(scores.posterior, given)[:, k]
    columns = {check.name: check.score[:, k] for check in scores.checks}
    rows = {"clip_id": pa.array(clip_ids, pa.string()), "label": pa.array([label] * len(clip_ids), pa.string())}
    return pa.table(
        {**rows, "given": has, "quality": quality * columns.get(DUPLICATES, 1.0), "flagged": flagged, **columns}
    )


def sort_ranked(table: pa.Table) -> pa.Table:
    """Return the rows lowest quality first.

    >>> sort_ranked(pa.table({"clip_id": ["b", "a", "c"], "quality": [0.5, 0.5, 0.1]}))["clip_id"].to_pylist()
    ['c', 'a', 'b']
    """
    return table.sort_by([("quality", "ascending"), ("clip_id", "ascending")])


def fit_reduction(features: Features, seed: int) -> Callable[[Features], Features]:
    """Return what scales features like these [clips, features] and reduces more than `MOST_FEATURES`.

    >>> features = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 3.0]], np.float32)
    >>> fit_reduction(features, seed=0)(features).round(2)
    array([[-1.22, -1.22],
           [ 0.  ,  0.  ],
           [ 1.22,  1.22]], dtype=float32)
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from acoustic_env.models.data.preprocessing import MeanImputer

    scaling = make_pipeline(MeanImputer(), StandardScaler()).fit(features)

    def scale(values: Features) -> Features:
        return np.asarray(scaling.transform(values), np.float32)

    if features.shape[1] <= MOST_FEATURES:
        return scale
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(seed).permutation(len(features))[:REDUCE_ROWS]
    pca = PCA(min(MOST_FEATURES, len(rows)), svd_solver="randomized", random_state=seed).fit(scale(features[rows]))
    unit = np.sqrt(max(pca.explained_variance_[0], 1e-12))
    return lambda values: np.asarray(pca.transform(scale(values)) / unit, np.float32)
