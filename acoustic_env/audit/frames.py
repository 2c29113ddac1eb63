"""Evaluate versions of the labels by samples whose decisions were fixed before anyone annotated.

Each version gets one *frame*: the given labels of clips that no earlier frame held, and every row that the version
decides otherwise than the published one (the labels as given, where that has no such row), without rows that have
answers or that an earlier sample drew. Its two strata, changed rows and others, are sampled simply, without
replacement; half of the budget goes to the changed ones. The sample table (`audit.sample`) also holds

    decided              bool, whether the label applies in the version that the sample evaluates
    published_decided    bool, whether it applied in the version published then

and, in its metadata, `FrameInfo` as JSON. So answers only evaluate decisions made without them, and two versions are
compared on the same rows. Unsure answers count as not given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.annotations import APPLIES
from acoustic_env.audit.consensus import Key, consensus, gold_truths
from acoustic_env.audit.intervals import Bools, Interval, nothing_observed
from acoustic_env.audit.ranking import rank_by_quality
from acoustic_env.audit.relabel import applies
from acoustic_env.audit.sample import draw_strata, frame_of, sample_table
from acoustic_env.audit.sequential import METHOD, SampledStratum, confidence_sequence, level_of_frame, stratified_mean
from acoustic_env.audit.table import key_pairs, of_clips, of_rows, row_keys
from acoustic_env.options import SampleSettings

INFO_KEY: Final = b"acoustic_env.judges"
UNCHANGED, CHANGED = "unchanged", "changed"
FEWEST_TO_SAMPLE: Final = 10


@dataclass(frozen=True)
class FrameInfo:
    """What a sample evaluates.

    Attributes:
        number: of the frame, 1 for the first.
        clips: URL of the clip list whose run drew it.
        version: the version that it evaluates.
        published: the version published then; None for the labels as given.
    """

    number: int
    clips: str
    version: str
    published: str | None


@dataclass(frozen=True)
class FrameEvaluation:
    """One frame's answers so far; its intervals hold at all times and for all frames together.

    Attributes:
        info: what is evaluated.
        rows, drawn, changed: rows of the frame, of the sample, and of the frame's rows that the version changed.
        accuracy: share of the frame's rows on which the version is right.
        published: estimated share on which the published version is right, from the same rows.
        as_given: estimated share on which the given labels are right, from the same rows.
        improvement: accuracy of the version minus that of the published one.
        strata: answers by stratum, 1 where the version is right.
    """

    info: FrameInfo
    rows: int
    drawn: int
    changed: int
    accuracy: Interval
    published: float
    as_given: float
    improvement: Interval
    strata: tuple[SampledStratum, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **self.accuracy.as_dict(),
            "version": self.info.version,
            "frame": self.info.number,
            "clips": self.info.clips,
            "rows": self.rows,
            "drawn": self.drawn,
            "as_given": self.as_given,
            "published_version": self.info.published,
            "published": self.published,
            "changed": self.changed,
            "improvement": self.improvement.as_dict(),
        }


def draw_frame(
    parts: Iterable[tuple[pa.Table, pa.Table | None, pa.Array]],
    drawn_before: Sequence[pa.Table],
    info: FrameInfo,
    budget: int,
    seed: int,
) -> pa.Table | None:
    """Draw the sample that evaluates a version; None when its frame has fewer than 10 rows (see the module).

    Args:
        parts: for one range of clips after another, in order: the rows of the version, those of the published version
            (None when there is none), and the ids of the clips that no earlier frame held.
        drawn_before: earlier samples.
        info: kept with the sample.
        budget: rows to draw at most.
        seed: of the draw; the frame's number is added to it.
    """
    keys = [sample.select(["clip_id", "label"]).replace_schema_metadata(None) for sample in drawn_before]
    drawn = pa.concat_tables(keys) if keys else None
    rows = [_frame_rows(*part, drawn) for part in parts]
    frame = pa.concat_tables(rows).combine_chunks() if rows else None
    if frame is None or frame.num_rows < FEWEST_TO_SAMPLE:
        return None
    decided, before = (np.asarray(frame[name]) for name in ("decided", "published_decided"))
    changed = decided != before
    rng = np.random.default_rng([seed, info.number])
    many, others = int(changed.sum()), int((~changed).sum())
    budget = min(max(budget, 2), len(changed))
    of_changed = min(many, max(budget // 2, budget - others))
    chosen, inclusion = draw_strata(changed.astype(np.int64), np.array([budget - of_changed, of_changed]), rng)
    strata = np.where(changed, CHANGED, UNCHANGED).astype(object)
    settings = SampleSettings(n=len(chosen), design="stratified", seed=seed, repeat=0.0)
    sample = sample_table(frame, strata, chosen, inclusion, settings, rng)
    place = np.asarray(pc.index_in(row_keys(sample), value_set=row_keys(frame)))
    for name, column in (("decided", decided), ("published_decided", before)):
        sample = sample.append_column(name, pa.array(column[place]))
    return sample.replace_schema_metadata({**sample.schema.metadata, INFO_KEY: json.dumps(vars(info))})


def _frame_rows(labels: pa.Table, published: pa.Table | None, new_clips: pa.Array, drawn: pa.Table | None) -> pa.Table:
    """Return the rows of a frame among some of a version, as a ranked table with both versions' decisions."""
    table = labels.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    given, decided = np.asarray(table["given"]), applies(table)
    before = _decided_before(table, published)
    free = np.asarray(pc.is_null(table["votes"]))
    if drawn is not None:
        free &= ~np.asarray(of_rows(table, drawn))
    inside = free & ((decided != before) | (given & np.asarray(of_clips(table, new_clips))))
    posterior = table["posterior"].to_numpy()
    ranked = rank_by_quality(table, np.where(given, posterior, 1.0 - posterior))
    ranked = ranked.append_column("decided", pa.array(decided)).append_column("published_decided", pa.array(before))
    return ranked.filter(pa.array(inside))


def frame_info(sample: pa.Table) -> FrameInfo | None:
    """Return what a sample evaluates; None when it was drawn for another purpose."""
    described = (sample.schema.metadata or {}).get(INFO_KEY)
    return None if described is None else FrameInfo(**json.loads(described))


def evaluate_frames(
    samples: Sequence[pa.Table], annotations: pa.Table | None, level: float = 0.95
) -> list[FrameEvaluation]:
    """Evaluate every version whose sample has an answer, by number of the frame.

    Args:
        samples: from `draw_frame`; others are left out.
        annotations: from `check_annotations`, all so far.
        level: coverage of the accuracies over all frames at all times, and of the improvements likewise.
    """
    frames = [(info, sample) for sample in samples if (info := frame_info(sample))]
    if annotations is None or not frames:
        return []
    gold: dict[Key, bool] = {}
    for _, sample in frames:
        gold |= gold_truths(sample)
    believed = {key: row.applies for key, row in consensus(annotations, gold).items() if row.applies is not None}
    when = _first_answered(annotations)
    frames.sort(key=lambda frame: frame[0].number)
    found = [_evaluate_frame(info, sample, believed, when, level) for info, sample in frames]
    return [evaluation for evaluation in found if evaluation is not None]


def accuracy_of_all(evaluations: Sequence[FrameEvaluation], level: float = 0.95) -> Interval:
    """Return the share of rows of all frames on which the evaluated versions are right, each frame by its size.

    It holds at all times (`audit.sequential`), however models, decisions and lists change.
    """
    strata = [stratum for evaluation in evaluations for stratum in evaluation.strata]
    return confidence_sequence(strata, level) if strata else nothing_observed(METHOD)


def better_version(evaluations: Sequence[FrameEvaluation], published: str | None) -> FrameEvaluation | None:
    """Return the last version shown to be better than the published one on the same rows; None if none is."""
    shown = [one for one in evaluations if one.info.published == published and one.improvement.low > 0.0]
    return shown[-1] if shown else None


def _decided_before(table: pa.Table, published: pa.Table | None) -> Bools:
    """Return [rows] whether the label applied in the published version; as given where that has no such row."""
    before: Bools = np.array(table["given"])
    if published is not None:
        place = pc.index_in(row_keys(table), value_set=row_keys(published))
        before[np.asarray(pc.is_valid(place))] = applies(published)[np.asarray(place.drop_null())]
    return before


def _first_answered(annotations: pa.Table) -> dict[Key, Any]:
    """Return when each row first got an answer other than unsure."""
    sure = pa.array([name for name, value in APPLIES.items() if value >= 0])
    answers = annotations.filter(
        pc.and_(pc.is_in(annotations["answer"], sure), pc.not_equal(annotations["role"], "repeat"))
    )
    first = answers.group_by(["clip_id", "label"]).aggregate([("time_utc", "min")])
    return dict(zip(key_pairs(first), first["time_utc_min"].to_pylist(), strict=True))


def _evaluate_frame(
    info: FrameInfo, sample: pa.Table, believed: Mapping[Key, float], when: Mapping[Key, Any], level: float
) -> FrameEvaluation | None:
    rows = sample.filter(pc.equal(sample["role"], "sample")).sort_by("order")
    keys, in_stratum = key_pairs(rows), np.asarray(rows["stratum"])
    places = [place for place, key in enumerate(keys) if key in believed and key in when]
    if not places:
        return None
    places.sort(key=lambda place: when[keys[place]])
    belief = np.array([believed[keys[place]] for place in places])
    frame = frame_of(sample, info.clips)
    described, size = frame["strata"], frame["size"]
    level = level_of_frame(info.number, level)
    right: dict[str, tuple[SampledStratum, ...]] = {}
    for name in ("decided", "published_decided", "given"):
        values = np.where(np.asarray(rows[name])[places], belief, 1.0 - belief)
        right[name] = tuple(
            SampledStratum(
                described[stratum]["size"],
                int((in_stratum == stratum).sum()),
                values[in_stratum[places] == stratum],
            )
            for stratum in (UNCHANGED, CHANGED)
            if stratum in described
        )
    changed = described.get(CHANGED, {"size": 0})["size"]
    return FrameEvaluation(
        info,
        size,
        len(keys),
        changed,
        confidence_sequence(right["decided"], level),
        stratified_mean(right["published_decided"]),
        stratified_mean(right["given"]),
        _improvement(right["decided"][-1] if changed else None, size, level),
        right["decided"],
    )


def _improvement(changed: SampledStratum | None, rows: int, level: float) -> Interval:
    """Return the difference in accuracy of two versions: on each changed row exactly one of them is right."""
    if changed is None:
        return Interval(0.0, 0.0, 0.0, METHOD, 0)
    share = confidence_sequence([changed], level)
    weight = changed.size / rows
    low, high = (weight * (2.0 * bound - 1.0) for bound in (share.low, share.high))
    return replace(share, estimate=weight * (2.0 * share.estimate - 1.0), low=low, high=high)
