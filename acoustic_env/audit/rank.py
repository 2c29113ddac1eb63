"""Rank the labels of a study from suspect to supported, by several scorers.

Every scorer judges each clip out of fold, and their probabilities are pooled with learned weights (`posterior`). There
is one round. A second one, learned from labels softened by the first and blind to the judged clip's own label as this
is, doubled the work; beside the first round's average precision on planted errors it gained nothing at 5 to 10 % of
wrong labels, lost 0.007 where those were ambiguous clips, and gained 0.004 to 0.016 only at 20 to 30 %.

The result orders labels for listening and repair. It is not an error rate, whatever the share of flagged labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.check import DUPLICATES, CheckResult, duplicates_check, from_probabilities, label_quality
from acoustic_env.audit.confident import confident_flags, confident_joint
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.neighbors import Neighborhood, find_neighbors
from acoustic_env.audit.posterior import NEIGHBORS, Evidence, posterior
from acoustic_env.audit.scorers import SCORERS, Features, Scorer
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json

if TYPE_CHECKING:
    from acoustic_env.config import ReductionSettings
    from acoustic_env.models.matrix import FeatureColumn

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_FEATURES: Final = 512  # more are reduced to as many principal components
REDUCE_ROWS: Final = 20_000  # rows the components are fitted on
LEAST_FOLDS: Final = 3  # one to judge, one to weigh the scorers on, one to learn from
LABELS: Final = 64  # labels of a multi-label study judged together, if memory allows
PROBABILITIES: Final = 2**26  # most that are held at once
NOT_A_RATE: Final = (
    "this is a ranking: it says where to listen first. Neither the flagged share nor the mean quality is an error "
    "rate; `audit sample`, `audit listen` and `audit estimate` give one"
)


@dataclass(frozen=True)
class RankSettings:
    """How labels are ranked.

    Attributes:
        scorers: names of models and of `neighbors`.
        folds: grouped folds, at least `LEAST_FOLDS`.
        neighbors: how many vote.
        seed: of folds and models.
        models: the models by name; others than the built-in ones may be injected.
    """

    scorers: tuple[str, ...] = ("mlp", "xgboost", "logistic", "neighbors")
    folds: int = 5
    neighbors: int = 25
    seed: int = 23
    models: Mapping[str, Scorer] = field(default_factory=lambda: SCORERS)


@dataclass(frozen=True)
class LabelScores:
    """What the scorers together score_labels of one study, or of one class of a multi-label study.

    Attributes:
        posterior: [clips, classes] combined probability of each class.
        flagged: [clips] the given class is confidently another.
        checks: each scorer's answer.
        information: weights, counts, the confident joint.
    """

    posterior: Floats
    flagged: Bools
    checks: Sequence[CheckResult]
    information: dict[str, Json]


@dataclass(frozen=True)
class Clips:
    """What is known of the clips to rank, once for all classes.

    Attributes:
        clip_ids: [clips].
        features: float32 [clips, features], scaled and reduced (`prepare`).
        folds: [clips] grouped folds.
        neighborhood: nearest clips of other folds.
        duplicates: [clips] group of duplicates, -1 for none; None when nobody looked.
        tags: scores of taggers by name, [clips, classes of the study]; NaN where absent.
    """

    clip_ids: npt.NDArray[Any]
    features: Features
    folds: Ints
    neighborhood: Neighborhood
    duplicates: Ints | None = None
    tags: Mapping[str, Floats] = field(default_factory=dict)


def reduce_blocks(values: Features, columns: Sequence[FeatureColumn], reduction: ReductionSettings) -> Features:
    """Features reduced block by block as a recipe says: thousands of modulation cells would outvote sixty indices.

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
    from acoustic_env.models.reduce import Reducer

    return Reducer(columns, reduction.replace(default_components=0)).fit(values).transform(values)


def prepare(
    clip_ids: Sequence[str],
    features: Features,
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    settings: RankSettings,
    duplicates: Ints | None = None,
    tags: Mapping[str, Floats] | None = None,
) -> Clips:
    """Scale and reduce the features, deal the folds, find the neighbors.

    Args:
        clip_ids: [clips].
        features: float32 [clips, features]; missing values as NaN.
        y: int64 [clips] given classes, or bool [clips, classes] for multi-label.
        groups: [clips] what must stay in one fold (video, recording, duplicates).
        settings: how.
        duplicates: [clips] number of the clip's group of duplicates, -1 for none.
        tags: scores in [0, 1] of taggers trained on other data, by name, [clips, classes].

    Raises:
        UsageError: fewer groups than folds, fewer folds than `LEAST_FOLDS`, or a scorer that does not exist.
    """
    from acoustic_env.models.folds import grouped_folds

    known = {*settings.models, NEIGHBORS}
    unknown = [name for name in settings.scorers if name not in known]
    if unknown or not settings.scorers:
        msg = f"no scorer {(unknown or ['?'])[0]!r}; there are {', '.join(sorted(known))}"
        raise UsageError(msg)
    if settings.folds < LEAST_FOLDS:
        msg = f"audit.folds is {settings.folds}; a ranking needs {LEAST_FOLDS} folds or more"
        raise UsageError(msg)
    scaled = _reduce(features, settings.seed)
    folds = grouped_folds(y, groups, settings.folds, settings.seed)
    neighborhood = find_neighbors(scaled, folds, settings.neighbors, settings.seed)
    return Clips(np.asarray(clip_ids), scaled, folds, neighborhood, duplicates, tags or {})


def score_labels(clips: Clips, given: Ints, classes: int, settings: RankSettings) -> LabelScores:
    """HeldOutScorer the labels of exclusive classes.

    Args:
        clips: from `prepare`.
        given: [clips] 0 to classes - 1.
        classes: how many.
        settings: how.

    Raises:
        UsageError: only one class is given.
    """
    if (np.bincount(given, minlength=classes) > 0).sum() < 2:
        msg = "all clips are given one class; a ranking needs clips of two classes or more"
        raise UsageError(msg)
    names = [*settings.scorers, *clips.tags]
    found = posterior(_evidence(clips, np.eye(classes)[given], True, settings, clips.tags), names)
    return _belief(clips, given, found.pooled, dict(zip(names, found.own, strict=True)), found.shares[:, 0])


def _evidence(
    clips: Clips, target: Floats, exclusive: bool, settings: RankSettings, tags: Mapping[str, Floats]
) -> Evidence:
    neighborhood = clips.neighborhood
    return Evidence(clips.features, target, exclusive, clips.folds, neighborhood, settings.seed, settings.models, tags)


def _belief(clips: Clips, given: Ints, pooled: Floats, own: Mapping[str, Floats], shares: Floats) -> LabelScores:
    """What probabilities [clips, classes], pooled and of each scorer, say about the given classes."""
    flagged = confident_flags(given, pooled)
    checks = [from_probabilities(name, probabilities, given) for name, probabilities in own.items()]
    if clips.duplicates is not None:
        checks.append(duplicates_check(clips.duplicates, given, pooled.shape[1]))
        flagged = flagged | checks[-1].flagged
    information: dict[str, Json] = {
        "clips": len(given),
        "flagged": int(flagged.sum()),
        "weights": dict(zip(own, shares.round(4).tolist(), strict=True)),
        "confident_joint": confident_joint(given, pooled).round(6).tolist(),
        "checks": {check.name: {"value": round(check.summary, 4), **check.information} for check in checks},
    }
    return LabelScores(pooled, flagged, checks, information)


def rank_exclusive(
    clips: Clips, given: Ints, classes: Sequence[str], settings: RankSettings
) -> tuple[pa.Table, dict[str, Json]]:
    """Ranked table of a binary or multi-class study (see `ranking`), most suspect first, and its summary.

    Args:
        clips: from `prepare`.
        given: [clips] index into `classes`.
        classes: names.
        settings: how.
    """
    belief = score_labels(clips, given, len(classes), settings)
    # A label that is not given is suspect when the given one is and it is the likeliest in its place.
    others = np.where(np.eye(len(classes), dtype=bool)[given], -1.0, belief.posterior).argmax(axis=1)
    tables = []
    for k, label in enumerate(classes):
        flagged = belief.flagged & ((given == k) | (others == k))
        tables.append(_table(clips.clip_ids, label, given == k, k, belief, flagged, given))
    table = pa.concat_tables(tables).sort_by([("quality", "ascending"), ("clip_id", "ascending")])
    summary: dict[str, Json] = {"note": NOT_A_RATE, "classes": list(classes), **belief.information}
    return table, summary


def rank_multilabel(
    clips: Clips, given: Bools, classes: Sequence[str], settings: RankSettings
) -> Iterator[tuple[pa.Table, dict[str, Json]]]:
    """Ranked tables of a multi-label study, one per class; some classes are judged together, so memory stays bounded.

    Classes that fewer clips carry (or lack) than there are folds cannot be judged and come out unflagged with quality
    and scores 1/2, and say so in their summary.

    Args:
        clips: from `prepare`.
        given: bool [clips, classes].
        classes: names.
        settings: how.
    """
    names = [*settings.scorers, *clips.tags]
    carried = given.sum(axis=0)
    able = np.flatnonzero(np.minimum(carried, len(given) - carried) >= settings.folds)
    together = int(np.clip(PROBABILITIES // (4 * len(names) * len(given)), 1, LABELS))
    for start in range(0, len(classes), together):
        some = able[(able >= start) & (able < start + together)]
        tags = {name: scores[:, some] for name, scores in clips.tags.items()}
        if len(some):
            found = posterior(_evidence(clips, given[:, some].astype(np.float64), False, settings, tags), names)
        for k in range(start, min(start + together, len(classes))):
            has = given[:, k].astype(np.int64)
            if k in some:
                place = int(np.searchsorted(some, k))
                own = {name: _yes_or_no(each[:, place]) for name, each in zip(names, found.own, strict=True)}
                belief = _belief(clips, has, _yes_or_no(found.pooled[:, place]), own, found.shares[:, place])
            else:
                belief = _undecided(clips, has, names, settings)
            table = _table(clips.clip_ids, classes[k], given[:, k], 1, belief, belief.flagged, has)
            yield (
                table.sort_by([("quality", "ascending"), ("clip_id", "ascending")]),
                {"label": classes[k], **belief.information},
            )


def _yes_or_no(positive: Floats) -> Floats:
    return np.stack([1.0 - positive, positive], axis=1)


def _undecided(clips: Clips, given: Ints, names: Sequence[str], settings: RankSettings) -> LabelScores:
    half = np.full((len(given), 2), 0.5)
    nobody = np.zeros(len(half), dtype=bool)
    reason: dict[str, Json] = {"summary": "too few clips of one kind for the folds"}
    checks = [CheckResult(name, half, nobody, 0.5, reason) for name in names]
    if clips.duplicates is not None:
        checks.append(duplicates_check(clips.duplicates, given, 2))
    fewer = f"fewer than {settings.folds} clips with or without it: not judged"
    return LabelScores(half, nobody, checks, {"clips": len(half), "flagged": 0, "note": fewer})


def _table(
    clip_ids: npt.NDArray[Any], label: str, has: Bools, k: int, belief: LabelScores, flagged: Bools, given: Ints
) -> pa.Table:
    quality = label_quality(belief.posterior, given)[:, k]
    duplicates = [check.score[:, k] for check in belief.checks if check.name == DUPLICATES]
    if duplicates:
        quality = quality * duplicates[0]
    columns = {
        "clip_id": pa.array(clip_ids, pa.string()),
        "label": pa.array([label] * len(clip_ids), pa.string()),
        "given": pa.array(has),
        "quality": pa.array(quality),
        "flagged": pa.array(flagged),
    }
    return pa.table(columns | {check.name: pa.array(check.score[:, k]) for check in belief.checks})


def _reduce(features: Features, seed: int) -> Features:
    from acoustic_env.models.cross_val import Scaler

    scaler = Scaler()
    scaler.fit(features)
    scaled = scaler.transform(features)
    if scaled.shape[1] <= MOST_FEATURES:
        return scaled
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(seed).permutation(len(scaled))[:REDUCE_ROWS]
    components = min(MOST_FEATURES, len(rows))
    reduction = PCA(components, svd_solver="randomized", random_state=seed).fit(scaled[rows])
    spread = np.sqrt(np.maximum(reduction.explained_variance_, 1e-12))
    reduced = reduction.transform(scaled) / spread[0]
    return np.asarray(reduced, dtype=np.float32)
