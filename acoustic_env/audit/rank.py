"""Rank the labels of a study from suspect to supported, by several witnesses that learn twice.

First round: every witness is judged out of fold on the given labels, and their probabilities are pooled with learned
weights. Second round: each label is softened halfway towards what the first round believes, and the witnesses learn
again; labels that the first round disbelieves thus hardly teach the second. The more labels the first round
disbelieves, the more the second counts.

The result orders labels for listening and repair. It is not an error rate, whatever the share of flagged labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.check import (
    CHECKS,
    CheckResult,
    Evidence,
    class_probabilities,
    statement_score,
)
from acoustic_env.audit.combine import fit_combination
from acoustic_env.audit.confident import confident_flags, confident_joint
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.neighbours import Neighbourhood, find_neighbours
from acoustic_env.audit.witnesses import WITNESSES, Features, Witness, out_of_fold
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json

if TYPE_CHECKING:
    from acoustic_env.config import ReductionSettings
    from acoustic_env.models.matrix import FeatureColumn

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_FEATURES: Final = 512  # more are reduced to as many principal components
REDUCE_ROWS: Final = 20_000  # rows the components are fitted on
SOFTENING: Final = 0.5  # how far the second round's labels move towards the first round's belief
NOT_A_RATE: Final = (
    "this is a ranking: it says where to listen first. Neither the flagged share nor the mean quality is an error "
    "rate; `audit sample`, `audit listen` and `audit estimate` give one"
)


@dataclass(frozen=True)
class RankSettings:
    """How labels are ranked.

    Attributes:
        witnesses: names of models and of `neighbours`.
        folds: grouped folds.
        neighbours: how many vote.
        seed: of folds and models.
        models: the models by name; others than the built-in ones may be injected.
    """

    witnesses: tuple[str, ...] = ("mlp", "xgboost", "logistic", "neighbours")
    folds: int = 5
    neighbours: int = 25
    seed: int = 23
    models: Mapping[str, Witness] = field(default_factory=lambda: WITNESSES)


@dataclass(frozen=True)
class Belief:
    """What the witnesses together believe of one study, or of one class of a multi-label study.

    Attributes:
        posterior: [clips, classes] combined probability of each class.
        flagged: [clips] the given class is confidently another.
        checks: each witness's first answer.
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
        neighbourhood: nearest clips of other folds.
        duplicates: [clips] group of duplicates, -1 for none; None when nobody looked.
        tags: scores of taggers by name, [clips, classes of the study]; NaN where absent.
    """

    clip_ids: npt.NDArray[Any]
    features: Features
    folds: Ints
    neighbourhood: Neighbourhood
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

    return Reducer(columns, replace(reduction, default_components=0)).fit(values).transform(values)


def prepare(
    clip_ids: Sequence[str],
    features: Features,
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    settings: RankSettings,
    duplicates: Ints | None = None,
    tags: Mapping[str, Floats] | None = None,
) -> Clips:
    """Scale and reduce the features, deal the folds, find the neighbours.

    Args:
        clip_ids: [clips].
        features: float32 [clips, features]; missing values as NaN.
        y: int64 [clips] given classes, or bool [clips, classes] for multi-label.
        groups: [clips] what must stay in one fold (video, recording, duplicates).
        settings: how.
        duplicates: [clips] number of the clip's group of duplicates, -1 for none.
        tags: scores in [0, 1] of taggers trained on other data, by name, [clips, classes].

    Raises:
        UsageError: fewer groups than folds, or a witness that does not exist.
    """
    from acoustic_env.models.folds import grouped_folds

    known = {*settings.models, "neighbours"}
    unknown = [name for name in settings.witnesses if name not in known]
    if unknown or not settings.witnesses:
        msg = f"no witness {(unknown or ['?'])[0]!r}; there are {', '.join(sorted(known))}"
        raise UsageError(msg)
    scaled = _reduce(features, settings.seed)
    folds = grouped_folds(y, groups, settings.folds, settings.seed)
    neighbourhood = find_neighbours(scaled, folds, settings.neighbours, settings.seed)
    return Clips(np.asarray(clip_ids), scaled, folds, neighbourhood, duplicates, tags or {})


def believe(evidence: Evidence, settings: RankSettings) -> Belief:
    """Both rounds of one study: the combined posterior and every check's answer.

    Raises:
        UsageError: only one class is given.
    """
    counts = np.bincount(evidence.given, minlength=evidence.classes)
    if (counts > 0).sum() < 2:
        msg = "all clips are given one class; a ranking needs clips of two classes or more"
        raise UsageError(msg)
    checks = [CHECKS.get(name, CHECKS["mlp"])(evidence, name) for name in settings.witnesses]
    checks += [CHECKS["tags"](evidence, name) for name in evidence.tags]
    first = np.stack([class_probabilities(check.score, evidence.given) for check in checks])
    combination = fit_combination(first, evidence.given)
    believed = combination.pool(first)
    softened = SOFTENING * believed + (1.0 - SOFTENING) * evidence.one_hot
    second = np.stack([_again(evidence, check, softened) for check in checks])
    doubted = float((believed.argmax(axis=1) != evidence.given).mean())
    share = min(1.0, 2.0 * doubted)
    posterior = (1.0 - share) * believed + share * combination.pool(second)
    flagged = confident_flags(evidence.given, posterior)
    if evidence.duplicates is not None:
        checks.append(CHECKS["duplicates"](evidence, "duplicates"))
        flagged = flagged | checks[-1].flagged
    weights = dict(zip((c.name for c in checks), combination.shares.round(4).tolist(), strict=False))
    information: dict[str, Json] = {
        "clips": len(evidence.given),
        "flagged": int(flagged.sum()),
        "weights": weights,
        "confident_joint": confident_joint(evidence.given, posterior).round(6).tolist(),
        "checks": {check.name: {"value": round(check.summary, 4), **check.information} for check in checks},
    }
    return Belief(posterior, flagged, checks, information)


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
    evidence = _evidence(clips, given, len(classes), settings, clips.tags)
    belief = believe(evidence, settings)
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
    """Ranked tables of a multi-label study, one class at a time so that memory stays bounded.

    Classes that fewer clips carry (or lack) than there are folds cannot be judged and come out unflagged with quality
    and scores 1/2, and say so in their summary.

    Args:
        clips: from `prepare`.
        given: bool [clips, classes].
        classes: names.
        settings: how.
    """
    for k, label in enumerate(classes):
        has = given[:, k].astype(np.int64)
        fewest = int(min(has.sum(), len(has) - has.sum()))
        tags = {name: np.stack([1.0 - scores[:, k], scores[:, k]], axis=1) for name, scores in clips.tags.items()}
        evidence = _evidence(clips, has, 2, settings, tags)
        belief = (_undecided if fewest < settings.folds else believe)(evidence, settings)
        table = _table(clips.clip_ids, label, given[:, k], 1, belief, belief.flagged, has)
        yield (
            table.sort_by([("quality", "ascending"), ("clip_id", "ascending")]),
            {"label": label, **belief.information},
        )


def _evidence(clips: Clips, given: Ints, classes: int, settings: RankSettings, tags: Mapping[str, Floats]) -> Evidence:
    return Evidence(
        clips.features,
        given,
        classes,
        clips.folds,
        clips.neighbourhood,
        settings.seed,
        settings.models,
        tags,
        clips.duplicates,
    )


def _again(evidence: Evidence, check: CheckResult, softened: Floats) -> Floats:
    """The witness's probabilities when it learns from softened labels; what cannot learn says the same again."""
    if check.name == "neighbours":
        return evidence.neighbourhood.vote(softened)
    if check.name in evidence.models:
        model = evidence.models[check.name]
        return out_of_fold(model, evidence.features, softened, evidence.folds, evidence.seed + 1)
    return class_probabilities(check.score, evidence.given)


def _undecided(evidence: Evidence, settings: RankSettings) -> Belief:
    half = np.full((len(evidence.given), 2), 0.5)
    nobody = np.zeros(len(half), dtype=bool)
    reason: dict[str, Json] = {"summary": "too few clips of one kind for the folds"}
    names = [*settings.witnesses, *evidence.tags]
    checks = [CheckResult(name, half, nobody, 0.5, reason) for name in names]
    if evidence.duplicates is not None:
        checks.append(CHECKS["duplicates"](evidence, "duplicates"))
    fewer = f"fewer than {settings.folds} clips with or without it: not judged"
    return Belief(half, nobody, checks, {"clips": len(half), "flagged": 0, "note": fewer})


def _table(
    clip_ids: npt.NDArray[Any], label: str, has: Bools, k: int, belief: Belief, flagged: Bools, given: Ints
) -> pa.Table:
    quality = statement_score(belief.posterior, given)[:, k]
    duplicates = [check.score[:, k] for check in belief.checks if check.name == "duplicates"]
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
    from acoustic_env.models.outoffold import Scaler

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
