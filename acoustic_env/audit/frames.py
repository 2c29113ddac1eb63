"""HeldOutScorer versions of the labels by samples whose decisions were frozen before anyone listened.

Each version of the labels gets one *frame*: the given labels of clips that no earlier frame held, and every row that
the version decides otherwise than the published one (the labels as given, where that has no such row). Rows that
annotators answered or an earlier sample drew are left out. Each of its two strata, the changed rows and the others, is
sampled simply, without replacement; half of the budget goes to the changed ones. The sample table (`audit.sample`) also
keeps what was in force at that time:

    decided              bool, whether the label applies in the version that the sample judges
    published_decided    bool, whether it applied in the version published then

and, in its metadata (`acoustic_env.judges`, JSON), the frame's number, the clip list, and the names of both versions.
So an answer is only ever scored under decisions that were made without it, and two versions are compared on the same
rows of the same frame. Unsure answers count as not given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.annotations import APPLIES
from acoustic_env.audit.consensus import Key, consensus, gold_truths
from acoustic_env.audit.intervals import Floats, Interval, nothing_observed
from acoustic_env.audit.relabel import applies
from acoustic_env.audit.sample import frame_of, sample_table
from acoustic_env.audit.sequential import METHOD, SampledStratum, confidence_sequence, level_of_frame
from acoustic_env.config import SampleSettings

JUDGES_KEY: Final = b"acoustic_env.judges"
UNCHANGED, CHANGED = "unchanged", "changed"
FEWEST_TO_SAMPLE: Final = 10

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judges:
    """What a sample judges.

    Attributes:
        number: of the frame, 1 for the first.
        clips: URL of the clip list whose run drew it.
        version: the version it judges.
        published: the version published then; None for the labels as given.
    """

    number: int
    clips: str
    version: str
    published: str | None


@dataclass(frozen=True)
class Judgement:
    """One frame's answers so far. Every interval holds at every look, those of all frames together.

    Attributes:
        judges: what was judged.
        rows, drawn, changed: rows of the frame, of the sample, and of the frame's rows that the version changed.
        accuracy: share of the frame's rows on which the version is right.
        published: estimated share on which the published version is right, from the same rows.
        as_given: estimated share on which the given labels are right, from the same rows.
        improvement: accuracy of the version minus that of the published one.
        strata: answers by stratum, 1 where the version is right.
    """

    judges: Judges
    rows: int
    drawn: int
    changed: int
    accuracy: Interval
    published: float
    as_given: float
    improvement: Interval
    strata: tuple[SampledStratum, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **self.accuracy.as_dict(),
            "version": self.judges.version,
            "frame": self.judges.number,
            "clips": self.judges.clips,
            "rows": self.rows,
            "drawn": self.drawn,
            "as_given": self.as_given,
            "published_version": self.judges.published,
            "published": self.published,
            "changed": self.changed,
            "improvement": self.improvement.as_dict(),
        }


def draw_frame(
    labels: pa.Table,
    published: pa.Table | None,
    new_clips: pa.Array,
    drawn_before: Sequence[pa.Table],
    judges: Judges,
    budget: int,
    seed: int,
) -> pa.Table | None:
    """Draw the sample that judges a version; None when its frame has fewer than 10 rows (see the module).

    Args:
        labels: the version.
        published: the published version; None when there is none.
        new_clips: ids of the clips that no earlier frame held.
        drawn_before: earlier samples.
        judges: what the sample is kept as judging.
        budget: rows to draw at most.
        seed: of the draw; the frame's number is added to it.
    """
    table = labels.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    given, decided = np.asarray(table["given"]), applies(table)
    before = _decided_before(table, published)
    free = np.asarray(pc.is_null(table["votes"]))
    for sample in drawn_before:
        free &= ~np.asarray(pc.is_in(row_keys(table), value_set=row_keys(sample)))
    changed = free & (decided != before)
    inside = changed | (free & given & np.asarray(pc.is_in(table["clip_id"], value_set=new_clips)))
    if inside.sum() < FEWEST_TO_SAMPLE:
        return None
    frame, decided, before, changed = (
        _ranked(table).filter(pa.array(inside)),
        decided[inside],
        before[inside],
        changed[inside],
    )
    rng = np.random.default_rng([seed, judges.number])
    rows, inclusion = _draw(changed, budget, rng)
    strata = np.where(changed, CHANGED, UNCHANGED).astype(object)
    settings = SampleSettings(n=len(rows), design="stratified", seed=seed, repeat=0.0)
    sample = sample_table(frame, strata, rows, inclusion, settings, rng)
    place = np.asarray(pc.index_in(row_keys(sample), value_set=row_keys(frame)))
    sample = sample.append_column("decided", pa.array(decided[place]))
    sample = sample.append_column("published_decided", pa.array(before[place]))
    return sample.replace_schema_metadata({**sample.schema.metadata, JUDGES_KEY: json.dumps(vars(judges))})


def what_it_judges(sample: pa.Table) -> Judges | None:
    """Return what a sample judges; None when it was drawn for another purpose."""
    described = (sample.schema.metadata or {}).get(JUDGES_KEY)
    return None if described is None else Judges(**json.loads(described))


def judge(samples: Sequence[pa.Table], annotations: pa.Table | None, level: float = 0.95) -> list[Judgement]:
    """HeldOutScorer every version whose sample has an answer, by number of the frame.

    Args:
        samples: from `draw_frame`; others are left out.
        annotations: from `check_annotations`, all answers so far.
        level: coverage of the accuracies over all frames and looks, and of the improvements likewise.
    """
    frames = sorted(((judges, sample) for sample in samples if (judges := what_it_judges(sample))), key=_number)
    if annotations is None or not frames:
        return []
    gold: dict[Key, bool] = {}
    for _, sample in frames:
        gold |= gold_truths(sample)
    believed = {key: row.applies for key, row in consensus(annotations, gold).items() if row.applies is not None}
    when = _first_answered(annotations)
    found = [_judge_frame(judges, sample, believed, when, level) for judges, sample in frames]
    return [judgement for judgement in found if judgement is not None]


def accuracy_of_all(judgements: Sequence[Judgement], level: float = 0.95) -> Interval:
    """Return the share of rows of all frames that the versions judged there were right on, each frame by its size.

    It holds at every look (`audit.sequential`), whatever became of models, decisions and lists in the meantime.
    """
    strata = [stratum for judgement in judgements for stratum in judgement.strata]
    return confidence_sequence(strata, level) if strata else nothing_observed(METHOD)


def better_version(judgements: Sequence[Judgement], published: str | None) -> Judgement | None:
    """Return the last judged version shown to be better than the published one on the same rows; None if none is."""
    shown = [
        judgement
        for judgement in judgements
        if judgement.judges.published == published and judgement.improvement.low > 0.0
    ]
    return shown[-1] if shown else None


def row_keys(table: pa.Table) -> pa.Array:
    """[rows] one string for each (clip_id, label)."""
    clip_ids, labels = (table[name].combine_chunks() for name in ("clip_id", "label"))
    return pc.binary_join_element_wise(clip_ids, labels, "\x00")


def _decided_before(table: pa.Table, published: pa.Table | None) -> Bools:
    """[rows] whether the label applied in the published version; as given where that has no such row."""
    given = np.asarray(table["given"])
    if published is None:
        return given
    place = pc.index_in(row_keys(table), value_set=row_keys(published))
    known = np.asarray(pc.is_valid(place))
    before: Bools = np.where(known, applies(published)[np.asarray(pc.fill_null(place, 0))], given)
    return before


def _ranked(table: pa.Table) -> pa.Table:
    """The columns a sample describes its rows by: quality is the probability of what the list says."""
    given, posterior = np.asarray(table["given"]), table["posterior"].to_numpy()
    quality = np.where(given, posterior, 1.0 - posterior)
    described = table.select(["clip_id", "label", "given"])
    return described.append_column("quality", pa.array(quality)).append_column("flagged", pa.array(quality < 0.5))


def _draw(changed: Bools, budget: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Rows drawn and inclusion probabilities [frame rows]; half of the budget goes to the changed rows."""
    sizes = {True: int(changed.sum()), False: int((~changed).sum())}
    budget = min(max(budget, 2), len(changed))
    many = min(sizes[True], max(budget // 2, budget - sizes[False]))
    rows, inclusion = [], np.empty(len(changed))
    for stratum, n in ((False, budget - many), (True, many)):
        members = np.flatnonzero(changed == stratum)
        rows.append(rng.choice(members, n, replace=False))
        inclusion[members] = n / max(sizes[stratum], 1)
    return np.sort(np.concatenate(rows)), inclusion


def _number(frame: tuple[Judges, pa.Table]) -> int:
    return frame[0].number


def _first_answered(annotations: pa.Table) -> dict[Key, Any]:
    """When each row was first answered by someone who could tell."""
    sure = pa.array([name for name, value in APPLIES.items() if value >= 0])
    answers = annotations.filter(
        pc.and_(pc.is_in(annotations["answer"], sure), pc.not_equal(annotations["role"], "repeat"))
    )
    first = answers.group_by(["clip_id", "label"]).aggregate([("time_utc", "min")])
    columns = (first[name].to_pylist() for name in ("clip_id", "label", "time_utc_min"))
    return {(clip_id, label): time for clip_id, label, time in zip(*columns, strict=True)}


def _judge_frame(
    judges: Judges, sample: pa.Table, believed: Mapping[Key, float], when: Mapping[Key, Any], level: float
) -> Judgement | None:
    rows = sample.filter(pc.equal(sample["role"], "sample")).sort_by("order").to_pylist()
    keyed = [((row["clip_id"], row["label"]), row) for row in rows]
    answered = sorted(
        ((key, row) for key, row in keyed if key in believed and key in when), key=lambda pair: when[pair[0]]
    )
    if not answered:
        return None
    described = frame_of(sample, judges.clips)["strata"]
    level = level_of_frame(judges.number, level)
    right: dict[str, tuple[SampledStratum, ...]] = {}
    for name in ("decided", "published_decided", "given"):
        strata = []
        for stratum in (UNCHANGED, CHANGED):
            if stratum in described:
                here = [(believed[key], row[name]) for key, row in answered if row["stratum"] == stratum]
                values = np.array([belief if applied else 1.0 - belief for belief, applied in here], dtype=np.float64)
                drawn = sum(row["stratum"] == stratum for row in rows)
                strata.append(SampledStratum(described[stratum]["size"], drawn, values))
        right[name] = tuple(strata)
    size = frame_of(sample, judges.clips)["size"]
    changed = described.get(CHANGED, {"size": 0})["size"]
    return Judgement(
        judges,
        size,
        len(rows),
        changed,
        confidence_sequence(right["decided"], level),
        _mean(right["published_decided"]),
        _mean(right["given"]),
        _improvement(right["decided"][-1] if changed else None, size, level),
        right["decided"],
    )


def _mean(strata: Sequence[SampledStratum]) -> float:
    """The rows' mean weighted by inclusion probability; 1/2 for a stratum nobody answered."""
    total = sum(stratum.size for stratum in strata)
    means = [stratum.values.mean() if len(stratum.values) else 0.5 for stratum in strata]
    return float(sum(stratum.size * mean for stratum, mean in zip(strata, means, strict=True)) / total)


def _improvement(changed: SampledStratum | None, rows: int, level: float) -> Interval:
    """Difference in accuracy of two versions that differ in the changed rows alone, where one of both is right."""
    if changed is None:
        return Interval(0.0, 0.0, 0.0, METHOD, 0)
    share = confidence_sequence([changed], level)
    weight = changed.size / rows
    low, high = (weight * (2.0 * bound - 1.0) for bound in (share.low, share.high))
    return replace(share, estimate=weight * (2.0 * share.estimate - 1.0), low=low, high=high)
