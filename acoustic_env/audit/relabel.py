"""From a ranking and verdicts to a re-annotated labels table.

The labels table has one row per clip and class: `clip_id`, `label`, `given` (the original label, never changed),
`posterior` (P(label applies)), each witness's score, `votes`, `action`, `reason`, `version`, `previous_version`.

    keep      as given                           drop   given, but it does not apply
    add       not given, but it applies          abstain   as given for now: nobody knows

Listeners decide first. The ranking decides alone only where known verdicts of a probability sample bound its errors
(`conformal`); without them every flagged label is left to people. What a label is now is `applies`; what it was is
`given`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.conformal import ConformalSets, calibrate
from acoustic_env.audit.consensus import Key, RowConsensus, consensus, gold_truths
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.ranking import quality_of, witness_names

Bools = npt.NDArray[np.bool_]

ACTIONS: Final = ("keep", "drop", "add", "abstain")
AGREED: Final = 0.9  # belief of several weighed votes above which they count as one answer
FEWEST_TO_CALIBRATE: Final = 30

LABEL_FIELDS: Final = (
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("label", pa.string(), nullable=False),
    pa.field("given", pa.bool_(), nullable=False),
    pa.field("posterior", pa.float64(), nullable=False),
)
DECISION_FIELDS: Final = (
    pa.field("votes", pa.list_(pa.string())),
    pa.field("action", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("version", pa.string(), nullable=False),
    pa.field("previous_version", pa.string()),
)


@dataclass(frozen=True)
class RelabelSettings:
    """How the ranking may decide alone.

    Attributes:
        delta: share of labels of each truth on which a lone decision may be wrong, bounded by conformal sets.
    """

    delta: float = 0.1


def relabel(
    ranked: pa.Table, verdicts: pa.Table | None, sample: pa.Table | None, settings: RelabelSettings
) -> pa.Table:
    """The labels table without its version columns, sorted by clip and label.

    Args:
        ranked: from `audit rank`.
        verdicts: from `check_verdicts`; None when nobody has listened.
        sample: the sample they listened to. Only with it may the ranking decide alone: its inclusion probabilities
            let the verdicts stand for all labels. Its gold rows are known, whatever is answered to them.
        settings: how.
    """
    ordered = ranked.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    given = np.asarray(ordered.column("given"))
    quality = quality_of(ordered)
    raw = np.where(given, quality, 1.0 - quality)
    clip_ids, labels = ordered.column("clip_id").to_pylist(), ordered.column("label").to_pylist()
    heard = consensus(verdicts, gold_truths(sample))
    row_of = {key: row for row, key in enumerate(zip(clip_ids, labels, strict=True)) if key in heard}
    weights = _weights(sample)
    posterior = _calibrated(raw, given, heard, row_of, weights)
    decided = _by_ranking(posterior, given, np.asarray(labels), heard, row_of, weights, settings)
    actions, reasons = _unheard(posterior, given, np.asarray(ordered.column("flagged")), decided, settings)
    votes: list[list[str] | None] = [None] * len(given)
    for key, row in row_of.items():
        votes[row] = heard[key].votes
        actions[row], reasons[row] = _listened(heard[key], bool(given[row]))
    _one_class_each(clip_ids, given, actions, reasons, posterior)
    columns: dict[str, pa.Array] = {
        "clip_id": ordered.column("clip_id"),
        "label": ordered.column("label"),
        "given": pa.array(given),
        "posterior": pa.array(posterior.round(6)),
    }
    columns |= {name: ordered.column(name).cast(pa.float64()) for name in witness_names(ordered)}
    decisions = {"votes": pa.array(votes, pa.list_(pa.string())), "action": pa.array(actions.astype(str))}
    return pa.table(columns | decisions | {"reason": pa.array(reasons.astype(str))})


def applies(labels: pa.Table) -> Bools:
    """[rows] whether the label applies after the table's actions; abstaining leaves it as given."""
    action = np.asarray(labels.column("action").to_pylist())
    now: Bools = (np.asarray(labels.column("given")) & (action != "drop")) | (action == "add")
    return now


def _weights(sample: pa.Table | None) -> dict[Key, float]:
    """Inverse inclusion probability of each sampled row."""
    if sample is None:
        return {}
    drawn = sample.filter(pc.equal(sample.column("role"), "sample"))
    columns = (drawn.column(name).to_pylist() for name in ("clip_id", "label", "inclusion_probability"))
    return {(clip_id, label): 1.0 / chance for clip_id, label, chance in zip(*columns, strict=True)}


def _known(
    heard: Mapping[Key, RowConsensus], row_of: Mapping[Key, int], weights: Mapping[Key, float]
) -> tuple[npt.NDArray[np.int64], Bools, Floats]:
    """Rows of the probability sample with a sure answer, whether the label applies, and their weights."""
    sure = []
    for key, row in row_of.items():
        belief = heard[key].applies
        answered = key in weights and heard[key].answered  # gold rows alone are no probability sample
        if answered and belief is not None and not 1.0 - AGREED < belief < AGREED:
            sure.append((row, belief > 0.5, weights[key]))
    rows, truth, weight = zip(*sure, strict=True) if sure else ((), (), ())
    return np.array(rows, dtype=np.int64), np.array(truth, dtype=bool), np.array(weight, dtype=np.float64)


def _calibrated(
    raw: Floats,
    given: Bools,
    heard: Mapping[Key, RowConsensus],
    row_of: Mapping[Key, int],
    weights: Mapping[Key, float],
) -> Floats:
    """P(label applies) fitted to the sample's verdicts (logistic in the log-odds, by given); as it was without them."""
    rows, truth, weight = _known(heard, row_of, weights)
    log_odds = np.log(np.clip(raw, 1e-6, 1 - 1e-6)) - np.log(np.clip(1 - raw, 1e-6, 1 - 1e-6))
    posterior = raw.copy()
    for side in (True, False):
        there = given[rows] == side
        if there.sum() < FEWEST_TO_CALIBRATE or truth[there].all() or not truth[there].any():
            continue
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(
            log_odds[rows[there], None], truth[there], weight[there] / weight[there].mean()
        )
        posterior[given == side] = model.predict_proba(log_odds[given == side, None])[:, 1]
    return posterior


def _by_ranking(
    posterior: Floats,
    given: Bools,
    labels: npt.NDArray[Any],
    heard: Mapping[Key, RowConsensus],
    row_of: Mapping[Key, int],
    weights: Mapping[Key, float],
    settings: RelabelSettings,
) -> npt.NDArray[np.int64] | None:
    """[rows] 1, 0 or -1 by conformal sets for each label and given or not; None where nothing is known.

    The sample is of given labels or of labels not given: sets hold for rows of the same kind only.
    """
    rows, truth, weight = _known(heard, row_of, weights)
    if len(rows) == 0:
        return None
    decided = np.full(len(given), -1, dtype=np.int64)
    needed = int(np.ceil(1.0 / settings.delta))
    for side in (True, False):
        pooled = given[rows] == side
        for label in np.unique(labels):
            own = pooled & (labels[rows] == label)
            enough = min(int(truth[own].sum()), int((~truth[own]).sum())) >= needed
            use = own if enough else pooled
            sets: ConformalSets = calibrate(posterior[rows[use]], truth[use], weight[use], settings.delta)
            here = (given == side) & (labels == label)
            decided[here] = sets.decide(posterior[here])
    return decided


def _unheard(
    posterior: Floats,
    given: Bools,
    flagged: Bools,
    decided: npt.NDArray[np.int64] | None,
    settings: RelabelSettings,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Actions and reasons for rows nobody listened to."""
    if decided is None:
        actions = np.where(flagged, "abstain", "keep").astype(object)
        return actions, np.where(flagged, "flagged; nobody listened", "not flagged").astype(object)
    sure = decided >= 0
    changed = sure & ((decided == 1) != given)
    # A label left out that the sets cannot decide stays out unless it is flagged: silence needs no proof.
    open_ = ~sure & (given | flagged)
    actions = np.where(changed, np.where(given, "drop", "add"), np.where(open_, "abstain", "keep")).astype(object)
    level = f"{1 - settings.delta:.0%}"
    said = np.where(decided == 1, f"applies in the {level} set", f"does not apply in the {level} set")
    reasons = np.where(sure, said, f"no single answer in the {level} set").astype(object)
    return actions, reasons


def _listened(heard: RowConsensus, given: bool) -> tuple[str, str]:
    said = "; ".join(heard.votes)
    if heard.applies is None:
        return "abstain", f"listeners cannot tell ({said})"
    if 1.0 - AGREED < heard.applies < AGREED:
        return "abstain", f"listeners disagree ({said})"
    if heard.applies > 0.5:
        return ("keep" if given else "add"), f"listened ({said})"
    return ("drop" if given else "keep"), f"listened ({said})"


def _one_class_each(
    clip_ids: list[str],
    given: Bools,
    actions: npt.NDArray[Any],
    reasons: npt.NDArray[Any],
    posterior: Floats,
) -> None:
    """Where each clip is given exactly one class, let none end with two: an added class replaces a dropped one."""
    _, clip = np.unique(np.asarray(clip_ids), return_inverse=True)
    if (np.bincount(clip, weights=given) != 1).any():
        return
    kept = np.zeros(clip.max() + 1, dtype=bool)
    kept[clip[given & (actions != "drop")]] = True
    added = np.flatnonzero(actions == "add")
    for row in added[np.lexsort((-posterior[added], clip[added]))]:
        if kept[clip[row]]:
            actions[row], reasons[row] = "abstain", f"{reasons[row]}, but the clip keeps another class"
        kept[clip[row]] = True
