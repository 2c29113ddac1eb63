"""Make a re-annotated labels table from a ranking and annotations.

The labels table has one row per clip and class: `clip_id`, `label`, `given` (the original label, never changed),
`posterior` (P(label applies)), each scorer's score, `votes`, `action`, `reason`, `version`, `previous_version`.

    keep      as given                           drop      given, but it does not apply
    add       not given, but it applies          abstain   as given for now: not known

Answers decide first, those of earlier versions too. The ranking decides the other rows only where the answers to a
probability sample prove that enough of these decisions are right (`automatic`); the rest abstains. Thresholds are on
the ranking's quality, which does not depend on answers, never on the posterior, which answers calibrate. `applies` is
what a label is now, `given` what it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.automatic import CONFIDENCE, Answers, Rule, find_rule
from acoustic_env.audit.consensus import Key, RowConsensus, consensus, gold_truths
from acoustic_env.audit.intervals import Bools, Floats
from acoustic_env.audit.ranking import quality_of, scorer_names
from acoustic_env.audit.sample import FRAME_KEY
from acoustic_env.audit.table import key_pairs, table_schema
from acoustic_env.options import RelabelSettings

ACTIONS: Final = ("keep", "drop", "add", "abstain")
AGREED: Final = 0.9  # probability from several weighted votes above which they count as one answer
FEWEST_TO_CALIBRATE: Final = 30
FEWEST_OF_A_KIND: Final = 10  # answers of each kind, else the posterior stays as the ranking has it
CHANGES: Final = {True: ("drop", "keep"), False: ("add", "leave out")}  # decisions about labels given, and not given
COVERED: Final = 0.9  # share of the rows of a kind that a sample must represent
MOST_CHANGED: Final = 0.5  # share of the labels that the ranking may change at most

LABELS_SCHEMA: Final = table_schema(  # beside the scorers' columns
    {"clip_id": pa.string(), "label": pa.string(), "given": pa.bool_(), "posterior": pa.float64()}
    | {"votes": pa.list_(pa.string()), "action": pa.string(), "reason": pa.string()}
    | {"version": pa.string(), "previous_version": pa.string()},
    nullable=("votes", "previous_version"),
)


@dataclass(frozen=True)
class Relabeled:
    """The labels table without its version columns, sorted, and the rule for each kind of automatic decision."""

    labels: pa.Table
    rules: list[Rule]


@dataclass(frozen=True)
class _Rows:
    """The ranked rows and what is known about them, all [rows].

    Attributes:
        given, flagged: of the ranked table.
        quality: low = suspect.
        annotated: people decided the row, now or in an earlier version.
        truth: 1 the label applies, 0 it does not, -1 not known.
        inclusion: probability that an answered sample row was drawn and answered; 0 for all other rows.
    """

    given: Bools
    flagged: Bools
    quality: Floats
    annotated: Bools
    truth: npt.NDArray[np.int64]
    inclusion: Floats


def relabel(
    ranked: pa.Table,
    annotations: pa.Table | None,
    sample: pa.Table | None,
    settings: RelabelSettings,
    before: pa.Table | None = None,
) -> pa.Table:
    """Return the labels table of `decide`."""
    return decide(ranked, annotations, sample, settings, before).labels


def decide(
    ranked: pa.Table,
    annotations: pa.Table | None,
    sample: pa.Table | None,
    settings: RelabelSettings,
    before: pa.Table | None = None,
) -> Relabeled:
    """Decide every ranked row: by its answers, by the ranking as far as a sample proves it right, or not at all.

    Args:
        ranked: from `audit rank`.
        annotations: from `check_annotations`, or None.
        sample: the annotated sample; without its inclusion probabilities there are no automatic decisions. Its gold
            rows are known, whatever their answers.
        settings: how.
        before: the last version of the labels; its rows with votes stay decided where there are no new answers.
    """
    ordered = ranked.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    given = np.asarray(ordered.column("given"))
    keys = key_pairs(ordered)
    answered = consensus(annotations, gold_truths(sample))
    people = _decided_before(before) | {
        key: (found.votes, *_by_answers(found, is_given))
        for key, is_given in zip(keys, given.tolist(), strict=True)
        if (found := answered.get(key)) is not None
    }
    rows = _rows(ordered, keys, people, _inclusion(sample, answered))
    posterior = _calibrated(rows)
    actions, reasons, rules = _by_ranking(rows, _frame_size(sample), settings)
    votes: list[list[str] | None] = [None] * len(keys)
    for row in np.flatnonzero(rows.annotated):
        votes[row], actions[row], reasons[row] = people[keys[row]]
    _one_class_each([clip_id for clip_id, _ in keys], given, actions, reasons, posterior)
    columns: dict[str, Any] = {name: ordered[name] for name in ("clip_id", "label", "given")}
    columns |= {"posterior": posterior.round(6)}
    columns |= {name: ordered[name].cast(pa.float64()) for name in scorer_names(ordered)}
    columns |= {"votes": pa.array(votes, pa.list_(pa.string()))}
    columns |= {"action": pa.array(actions, pa.string()), "reason": pa.array(reasons, pa.string())}
    return Relabeled(pa.table(columns), rules)


def applies(labels: pa.Table) -> Bools:
    """Return [rows] whether the label applies after the table's actions; abstaining leaves it as given."""
    action = np.asarray(labels.column("action").to_pylist())
    now: Bools = (np.asarray(labels.column("given")) & (action != "drop")) | (action == "add")
    return now


def _decided_before(before: pa.Table | None) -> dict[Key, tuple[list[str], str, str]]:
    """Return votes, action and reason of the rows that people decided in an earlier version."""
    if before is None:
        return {}
    annotated = before.filter(pc.is_valid(before["votes"]))
    decided = zip(*(annotated[name].to_pylist() for name in ("votes", "action", "reason")), strict=True)
    return dict(zip(key_pairs(annotated), decided, strict=True))


def _inclusion(sample: pa.Table | None, answered: Mapping[Key, RowConsensus]) -> dict[Key, float]:
    """Return the probability that each answered sample row was drawn and answered.

    Rows are presented in random order, so the answered rows of a stratum are always a random sample of it: the drawn
    rows' probability times the answered share of the stratum's drawn rows.
    """
    if sample is None:
        return {}
    drawn = sample.filter(pc.equal(sample.column("role"), "sample"))
    parts = [drawn[name].to_pylist() for name in ("frame_hash", "stratum") if name in drawn.column_names]
    strata = list(zip(*parts, strict=True)) if parts else [()] * drawn.num_rows
    keys = key_pairs(drawn)
    has = [key in answered and answered[key].answered for key in keys]
    every, some = Counter(strata), Counter(stratum for stratum, is_ in zip(strata, has, strict=True) if is_)
    rows = zip(keys, strata, has, drawn["inclusion_probability"].to_pylist(), strict=True)
    return {key: chance * some[stratum] / every[stratum] for key, stratum, is_, chance in rows if is_}


def _rows(
    ordered: pa.Table,
    keys: list[Key],
    people: Mapping[Key, tuple[list[str], str, str]],
    inclusion: Mapping[Key, float],
) -> _Rows:
    given = np.asarray(ordered.column("given"))
    actions = [people[key][1] if key in people else None for key in keys]
    truth = [
        -1 if action is None or action == "abstain" else int(action == "add" or (action == "keep" and is_given))
        for action, is_given in zip(actions, given.tolist(), strict=True)
    ]
    return _Rows(
        given,
        np.asarray(ordered.column("flagged")),
        quality_of(ordered),
        np.array([action is not None for action in actions], dtype=np.bool_),
        np.array(truth, dtype=np.int64),
        np.array([inclusion.get(key, 0.0) for key in keys], dtype=np.float64),
    )


def _calibrated(rows: _Rows) -> Floats:
    """Return P(label applies) fitted to the answers (logistic in the log-odds, by given); raw where they are few."""
    raw = np.where(rows.given, rows.quality, 1.0 - rows.quality)
    log_odds = np.log(np.clip(raw, 1e-6, 1 - 1e-6)) - np.log(np.clip(1 - raw, 1e-6, 1 - 1e-6))
    posterior = raw.copy()
    for side in (True, False):
        there = np.flatnonzero((rows.given == side) & (rows.inclusion > 0.0) & (rows.truth >= 0))
        kinds = np.bincount(rows.truth[there], minlength=2)
        if len(there) < FEWEST_TO_CALIBRATE or kinds.min() < FEWEST_OF_A_KIND:
            continue
        from sklearn.linear_model import LogisticRegression

        weight = 1.0 / rows.inclusion[there]
        model = LogisticRegression().fit(log_odds[there, None], rows.truth[there], weight / weight.mean())
        posterior[rows.given == side] = model.predict_proba(log_odds[rows.given == side, None])[:, 1]
    return posterior


def _frame_size(sample: pa.Table | None) -> int | None:
    """Return the number of rows of a sample's frame; None for several samples together."""
    described = (sample.schema.metadata or {}).get(FRAME_KEY) if sample is not None else None
    return None if described is None else int(json.loads(described)["size"])


def _by_ranking(
    rows: _Rows, frame_size: int | None, settings: RelabelSettings
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[Rule]]:
    """Return actions and reasons by the ranking alone, and their rules.

    Labels given and labels not given have rules of their own. The rows that the sample was drawn from must be those to
    decide: their number is known from the frame, or is the sum of 1 / inclusion.
    """
    actions = np.where(rows.flagged, "abstain", "keep").astype(object)
    reasons = np.where(rows.flagged, "flagged; without an answer", "not flagged").astype(object)
    rules: list[Rule] = []
    level = f"with {CONFIDENCE:.0%} confidence at least {settings.precision:.0%} of these are right"
    for side, (change, stay) in CHANGES.items():
        here = np.flatnonzero(rows.given == side)
        if not (rows.inclusion[here] > 0.0).any():
            continue
        annotated, truth, inclusion = rows.annotated[here], rows.truth[here], rows.inclusion[here]
        actions[here], reasons[here] = "abstain", "no threshold of the quality is proven"
        stands_for = round(float((1.0 / inclusion[inclusion > 0.0]).sum()))
        if frame_size != len(here) and stands_for < COVERED * len(here):
            sampled = int((inclusion > 0.0).sum())
            rules.append(Rule(change, settings.precision, sampled, None, outside=len(here) - stands_for))
            continue
        for kind, score, agrees, most in (
            (stay, -rows.quality[here], int(side), 1.0),
            (change, rows.quality[here], int(not side), MOST_CHANGED),
        ):
            rule = find_rule(kind, Answers(score, annotated, truth == agrees, inclusion), settings.precision, most)
            rules.append(rule)
            if rule.passed is not None:
                decided = here[score < rule.passed.below]
                actions[decided] = kind if kind in ACTIONS else "keep"
                bound = f"quality {'below' if kind == change else 'above'} {abs(rule.passed.below):.4g}"
                reasons[decided] = f"{bound}: {level}" if np.isfinite(rule.passed.below) else level
    return actions, reasons, rules


def _by_answers(row: RowConsensus, given: bool) -> tuple[str, str]:
    votes = "; ".join(row.votes)
    if row.applies is None:
        return "abstain", f"annotators unsure ({votes})"
    if 1.0 - AGREED < row.applies < AGREED:
        return "abstain", f"annotators disagree ({votes})"
    if row.applies > 0.5:
        return ("keep" if given else "add"), f"annotated ({votes})"
    return ("drop" if given else "keep"), f"annotated ({votes})"


def _one_class_each(
    clip_ids: list[str],
    given: Bools,
    actions: npt.NDArray[Any],
    reasons: npt.NDArray[Any],
    posterior: Floats,
) -> None:
    """Where each clip is given exactly one class, let an added class only replace a dropped one."""
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
