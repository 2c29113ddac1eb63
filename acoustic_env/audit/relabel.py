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
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.automatic import CONFIDENCE, Answers, Rule, find_rule
from acoustic_env.audit.consensus import Key, RowConsensus, consensus, gold_truths
from acoustic_env.audit.intervals import Bools, Floats, Ints
from acoustic_env.audit.ranking import RANKED_SCHEMA, quality_of, scorer_names
from acoustic_env.audit.sample import FRAME_KEY
from acoustic_env.audit.table import key_pairs, row_keys, table_schema
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


Decision = tuple[list[str], str, str]  # votes, action, reason


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

    >>> rows = {"clip_id": ["a", "b"], "label": ["rain", "rain"], "given": [True, True], "flagged": [True, False]}
    >>> ranked = pa.table({**rows, "quality": [0.1, 0.9]}).select(RANKED_SCHEMA.names)
    >>> answer = {"clip_id": "a", "label": "rain", "annotator": "Ada", "answer": "wrong"}
    >>> annotations = pa.Table.from_pylist([answer | {"role": "sample", "time_utc": 1}])
    >>> labels = decide(ranked, annotations, None, RelabelSettings()).labels
    >>> labels["action"].to_pylist(), labels["reason"].to_pylist()
    (['drop', 'keep'], ['annotated (Ada: wrong)', 'not flagged'])
    """
    relabeler = Relabeler(annotations, sample, settings, {} if before is None else decided_by_people(before))
    relabeler.see(ranked)
    relabeler.count(ranked)
    return Relabeled(relabeler.decide(ranked), relabeler.rules)


def applies(labels: pa.Table) -> Bools:
    """Return [rows] whether the label applies after the table's actions; abstaining leaves it as given.

    >>> actions = ["keep", "drop", "add", "abstain", "keep"]
    >>> applies(pa.table({"given": [True, True, False, True, False], "action": actions})).tolist()
    [True, False, True, True, False]
    """
    kept = pc.and_(labels["given"], pc.not_equal(labels["action"], "drop"))
    return np.asarray(pc.or_(kept, pc.equal(labels["action"], "add")))


def decided_by_people(labels: pa.Table) -> dict[Key, Decision]:
    """Return votes, action and reason of the rows that people decided in a version.

    >>> rows = {"clip_id": ["a", "b"], "label": ["rain", "rain"], "votes": [["Ada: wrong"], None]}
    >>> decided_by_people(pa.table({**rows, "action": ["drop", "keep"], "reason": ["annotated", "not flagged"]}))
    {('a', 'rain'): (['Ada: wrong'], 'drop', 'annotated')}
    """
    annotated = labels.filter(pc.is_valid(labels["votes"]))
    decided = zip(*(annotated[name].to_pylist() for name in ("votes", "action", "reason")), strict=True)
    return dict(zip(key_pairs(annotated), decided, strict=True))


class Relabeler:
    """Decides a ranking that comes in parts: each part is shown to `see`, then each to `count`, then to `decide`.

    Memory holds the answered rows only. A part is a ranked table of whole clips.

    Args:
        annotations, sample, settings: as for `decide`.
        decided: rows that people decided earlier (`decided_by_people`).
    """

    def __init__(
        self,
        annotations: pa.Table | None,
        sample: pa.Table | None,
        settings: RelabelSettings,
        decided: Mapping[Key, Decision],
    ) -> None:
        self._settings = settings
        self._decided = decided
        self._consensus = consensus(annotations, gold_truths(sample))
        self._inclusion = _inclusion(sample, self._consensus)
        self._frame_size = _frame_size(sample)
        self._keys = pa.array(["\x00".join(key) for key in {**decided, **self._consensus}], pa.string())
        self._known: list[pa.Table] = []
        self._sizes = {True: 0, False: 0}
        self._one_class_each = True

    def see(self, part: pa.Table) -> None:
        """Keep the answered rows."""
        self._known.append(part.select(RANKED_SCHEMA.names).filter(self._is_known(part)))
        given = int(pc.sum(part["given"]).as_py() or 0)
        self._sizes[True] += given
        self._sizes[False] += part.num_rows - given
        by_clip = part.group_by("clip_id").aggregate([("given", "sum")])["given_sum"]
        self._one_class_each &= bool(pc.all(pc.equal(by_clip, 1)).as_py())

    def count(self, part: pa.Table) -> None:
        """Count the rows with a lower and with a higher quality than each answered row, of labels given and not."""
        given, quality = np.asarray(part["given"]), quality_of(part)
        for side, counts in self._counts.items():
            here, thresholds = np.sort(quality[given == side]), self._rows.quality[self._rows.given == side]
            counts[0] += np.searchsorted(here, thresholds, side="left")
            counts[1] += len(here) - np.searchsorted(here, thresholds, side="right")

    def decide(self, part: pa.Table) -> pa.Table:
        """Return the labels table of a part, sorted."""
        ordered = part.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
        given, quality = np.asarray(ordered["given"]), quality_of(ordered)
        posterior = self._posterior(given, quality)
        actions, reasons = self._by_ranking(given, quality, np.asarray(ordered["flagged"]))
        votes: list[list[str] | None] = [None] * len(given)
        known = np.flatnonzero(self._is_known(ordered))
        for row, key in zip(known.tolist(), key_pairs(ordered.take(pa.array(known))), strict=True):
            votes[row], actions[row], reasons[row] = self._people[key]
        if self._one_class_each:
            _one_class_each(ordered["clip_id"], given, actions, reasons, posterior)
        columns: dict[str, Any] = {name: ordered[name] for name in ("clip_id", "label", "given")}
        columns |= {"posterior": posterior.round(6)}
        columns |= {name: ordered[name].cast(pa.float64()) for name in scorer_names(ordered)}
        columns |= {"votes": pa.array(votes, pa.list_(pa.string()))}
        columns |= {"action": pa.array(actions, pa.string()), "reason": pa.array(reasons, pa.string())}
        return pa.table(columns)

    @property
    def rules(self) -> list[Rule]:
        """The rule of each kind of automatic decision."""
        return [rule for rules in self._rules.values() for rule in rules]

    def _is_known(self, part: pa.Table) -> pa.Array:
        return pc.is_in(row_keys(part), value_set=self._keys)

    @cached_property
    def _people(self) -> dict[Key, Decision]:
        """Votes, action and reason of the rows that people decided, now or earlier."""
        known = pa.concat_tables(self._known)
        answered = zip(key_pairs(known), known["given"].to_pylist(), strict=True)
        return {**self._decided} | {
            key: (found.votes, *_by_answers(found, is_given))
            for key, is_given in answered
            if (found := self._consensus.get(key)) is not None
        }

    @cached_property
    def _rows(self) -> _Rows:
        """What is known about the answered rows."""
        known = pa.concat_tables(self._known).sort_by([("clip_id", "ascending"), ("label", "ascending")])
        keys, given = key_pairs(known), known["given"].to_pylist()
        actions = [self._people[key][1] for key in keys]
        truth = [
            -1 if action == "abstain" else int(action == "add" or (action == "keep" and is_given))
            for action, is_given in zip(actions, given, strict=True)
        ]
        return _Rows(
            np.array(given, dtype=np.bool_),
            quality_of(known),
            np.array(truth, dtype=np.int64),
            np.array([self._inclusion.get(key, 0.0) for key in keys], dtype=np.float64),
        )

    @cached_property
    def _counts(self) -> dict[bool, Ints]:
        """By side: all rows [lower, higher; answered rows], filled by `count`; only sides with a sample."""
        sampled = {side for side in CHANGES if (self._rows.inclusion[self._rows.given == side] > 0.0).any()}
        return {side: np.zeros((2, int((self._rows.given == side).sum())), np.int64) for side in sampled}

    @cached_property
    def _rules(self) -> dict[bool, list[Rule]]:
        """By side, where the sample has rows of it: the rules, those about keeping labels first.

        Labels given and labels not given have rules of their own. The rows that the sample was drawn from must be those
        to decide: their number is known from the frame, or is the sum of 1 / inclusion.
        """
        rules: dict[bool, list[Rule]] = {}
        for side in (side for side in CHANGES if side in self._counts):
            change, stay = CHANGES[side]
            here, size, (lower, higher) = self._rows.of(side), self._sizes[side], self._counts[side]
            chances = here.inclusion[here.inclusion > 0.0]
            stands_for = round(float((1.0 / chances).sum()))
            if self._frame_size != size and stands_for < COVERED * size:
                outside = Rule(change, self._settings.precision, len(chances), None, outside=size - stands_for)
                rules[side] = [outside]
                continue
            keeping = Answers(-here.quality, here.truth == int(side), here.inclusion, higher, size)
            changing = Answers(here.quality, here.truth == int(not side), here.inclusion, lower, size)
            rules[side] = [
                find_rule(stay, keeping, self._settings.precision, 1.0),
                find_rule(change, changing, self._settings.precision, MOST_CHANGED),
            ]
        return rules

    def _by_ranking(self, given: Bools, quality: Floats, flagged: Bools) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return actions and reasons by the ranking alone."""
        actions = np.where(flagged, "abstain", "keep").astype(object)
        reasons = np.where(flagged, "flagged; without an answer", "not flagged").astype(object)
        level = f"with {CONFIDENCE:.0%} confidence at least {self._settings.precision:.0%} of these are right"
        for side, rules in self._rules.items():
            here = np.flatnonzero(given == side)
            actions[here], reasons[here] = "abstain", "no threshold of the quality is proven"
            for rule in rules:
                if rule.passed is None:
                    continue
                changes = rule.kind == CHANGES[side][0]
                decided = here[(quality[here] if changes else -quality[here]) < rule.passed.below]
                actions[decided] = rule.kind if rule.kind in ACTIONS else "keep"
                bound = f"quality {'below' if changes else 'above'} {abs(rule.passed.below):.4g}"
                reasons[decided] = f"{bound}: {level}" if np.isfinite(rule.passed.below) else level
        return actions, reasons

    @cached_property
    def _calibration(self) -> dict[bool, Any]:
        """By side, where there are enough answers: a logistic regression of the truth on the log-odds."""
        models: dict[bool, Any] = {}
        for side in CHANGES:
            here = self._rows.of(side)
            there = np.flatnonzero((here.inclusion > 0.0) & (here.truth >= 0))
            kinds = np.bincount(here.truth[there], minlength=2)
            if len(there) < FEWEST_TO_CALIBRATE or kinds.min() < FEWEST_OF_A_KIND:
                continue
            from sklearn.linear_model import LogisticRegression

            weight = 1.0 / here.inclusion[there]
            log_odds = _log_odds(here.given[there], here.quality[there])
            models[side] = LogisticRegression().fit(log_odds, here.truth[there], weight / weight.mean())
        return models

    def _posterior(self, given: Bools, quality: Floats) -> Floats:
        """Return P(label applies) fitted to the answers, by given; the raw one where they are few."""
        posterior = _raw_posterior(given, quality)
        for side, model in self._calibration.items():
            here = given == side
            if here.any():
                posterior[here] = model.predict_proba(_log_odds(given[here], quality[here]))[:, 1]
        return posterior


@dataclass(frozen=True)
class _Rows:
    """What is known about the answered rows, all [rows].

    Attributes:
        given: of the ranked table.
        quality: low = suspect.
        truth: 1 the label applies, 0 it does not, -1 not known.
        inclusion: probability that an answered sample row was drawn and answered; 0 for all other rows.
    """

    given: Bools
    quality: Floats
    truth: Ints
    inclusion: Floats

    def of(self, side: bool) -> _Rows:
        """Return the rows of labels given, or of those not given."""
        here = self.given == side
        return _Rows(self.given[here], self.quality[here], self.truth[here], self.inclusion[here])


def _raw_posterior(given: Bools, quality: Floats) -> Floats:
    return np.where(given, quality, 1.0 - quality)


def _log_odds(given: Bools, quality: Floats) -> Floats:
    """Return [rows, 1] the log-odds that the label applies."""
    raw = _raw_posterior(given, quality)
    return (np.log(np.clip(raw, 1e-6, 1 - 1e-6)) - np.log(np.clip(1 - raw, 1e-6, 1 - 1e-6)))[:, None]


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


def _frame_size(sample: pa.Table | None) -> int | None:
    """Return the number of rows of a sample's frame; None for several samples together."""
    described = (sample.schema.metadata or {}).get(FRAME_KEY) if sample is not None else None
    return None if described is None else int(json.loads(described)["size"])


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
    clip_ids: pa.ChunkedArray,
    given: Bools,
    actions: npt.NDArray[Any],
    reasons: npt.NDArray[Any],
    posterior: Floats,
) -> None:
    """Let an added class only replace a dropped one, where each clip is given exactly one class; rows are sorted."""
    added = np.flatnonzero(actions == "add")
    clip = np.asarray(pc.index_in(clip_ids, value_set=pc.unique(clip_ids)))
    kept = np.zeros(len(actions), dtype=bool)
    kept[clip[given & (actions != "drop")]] = True
    for row in added[np.lexsort((-posterior[added], clip[added]))]:
        if kept[clip[row]]:
            actions[row], reasons[row] = "abstain", f"{reasons[row]}, but the clip keeps another class"
        kept[clip[row]] = True
