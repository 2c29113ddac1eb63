"""From a listened probability sample to label accuracy, per class and overall, and to the ranking's own quality.

Only estimators that are valid for the sample's design are given. `values` are 1 where the list is right about a row
(for rows of labels not given: right not to give it), 0 where it is wrong, in between where several votes were weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit import designs, intervals
from acoustic_env.audit.agreement import agreement
from acoustic_env.audit.annotations import VoteTable, latest, vote_table
from acoustic_env.audit.consensus import Key, RowConsensus, consensus, gold_truths
from acoustic_env.audit.designs import StratumCounts
from acoustic_env.audit.intervals import Floats, Interval, from_variance
from acoustic_env.audit.sample import frame_of
from acoustic_env.audit.votes import dawid_skene_share, rogan_gladen
from acoustic_env.errors import UsageError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PREFERRED: Final = {"simple": "difference", "stratified": "stratified", "unequal": "difference"}
FEW: Final = 50  # below, a slope of answers on the score is not worth estimating
TOPS: Final = (50, 100, 200, 500, 1000)
FEWEST_IN_TOP: Final = 5
SIDES: Final = (("right", 1), ("wrong", 0))


@dataclass(frozen=True)
class AnnotatedSample:
    """The sampled rows with answers.

    Attributes:
        design: simple, stratified or unequal.
        frame: what the sample's metadata says of its frame.
        values: [rows] whether the list is right, in [0, 1]; NaN where nobody could tell.
        inclusion, quality: [rows] of the sample table.
        rank: [rows] place in the ranking, 1 = most suspect.
        flagged: [rows].
        stratum, label: [rows].
        effect: design effect of groups, by which variances are multiplied.
    """

    design: str
    frame: Mapping[str, Any]
    values: Floats
    inclusion: Floats
    quality: Floats
    rank: Ints
    flagged: Bools
    stratum: npt.NDArray[Any]
    label: npt.NDArray[Any]
    effect: float = 1.0


def estimate(
    sample: pa.Table,
    annotations: pa.Table,
    where: str,
    groups: Mapping[str, str] | None = None,
    seed: int = 23,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything a listened sample says.

    Args:
        sample: from `audit sample`.
        annotations: from `check_annotations`.
        where: name of the sample's file, for messages.
        groups: clip_id -> group (video, recording); None treats clips as independent.
        seed: of bootstraps.
        level: coverage of every interval.

    Returns:
        Plain values and `Interval`s: `design`, `frame`, `drawn`, `answered`, `without_answer`, `unsure`, `overall`,
        `labels`, `preferred`, `annotators`, `ranking`. A row without an answer is not an unsure one.

    Raises:
        UsageError: not a sample, or no answer to any of its rows.
    """
    frame = frame_of(sample, where)
    answers = latest(annotations)
    drawn = sample.filter(pc.equal(sample.column("role"), "sample"))
    votes = _votes(drawn, answers, "sample")
    gold = _gold(sample, answers, votes.annotators)
    given = np.asarray(drawn.column("given"))
    answered = _answered(answers)
    values = _values(consensus(annotations, gold_truths(sample)), votes.keys, answered, given)
    spoken = np.array([key in answered for key in votes.keys], dtype=np.bool_)
    if np.isnan(values).all():
        msg = (
            f"{where}: none of the {len(values)} sampled rows has an answer; annotate first: acoustic-env audit listen"
        )
        raise UsageError(msg)
    annotated = _annotated_sample(drawn, frame, values, groups)
    names = sorted(frame["labels"])
    chosen = preferred(annotated)
    overall = estimators(annotated, None, level)
    return {
        "design": annotated.design,
        "frame": {"rows": frame["size"], "flagged": frame["flagged"], "hash": sample.column("frame_hash")[0].as_py()},
        "drawn": len(values),
        "answered": int(np.isfinite(values).sum()),
        "without_answer": int((~spoken).sum()),
        "unsure": _unsure(annotated, spoken, level),
        "design_effect": annotated.effect,
        "preferred": chosen,
        "overall": overall,
        "labels": {name: estimators(annotated, name, level) for name in names},
        "annotators": _annotators(sample, answers, votes, gold, _apparent(annotated, votes, given, level), seed, level),
        "ranking": ranking_quality(annotated, level),
    }


def preferred(annotated: AnnotatedSample) -> str:
    """Name of the estimator to quote for this design and number of answers."""
    few = annotated.design == "simple" and np.isfinite(annotated.values).sum() < FEW
    return "wilson" if few else PREFERRED[annotated.design]


def estimators(annotated: AnnotatedSample, label: str | None, level: float) -> dict[str, Interval]:
    """Every estimator that is valid for the design, for one label or (None) for the whole frame."""
    known = np.isfinite(annotated.values) & (
        np.ones(len(annotated.values), dtype=bool) if label is None else annotated.label == label
    )
    part = annotated.frame if label is None else annotated.frame["labels"][label]
    y, f, n = annotated.values[known], annotated.quality[known], int(known.sum())
    if n == 0:
        return {preferred(annotated): intervals.nothing_observed(preferred(annotated))}

    def made(pair: tuple[float, float], method: str) -> Interval:
        return from_variance(pair[0], pair[1] * annotated.effect, n, method, level)

    if annotated.design == "simple":
        effective = n / annotated.effect
        right = float(y.mean()) * effective
        found = {
            "wilson": intervals.wilson(right, effective, level),
            "clopper-pearson": intervals.clopper_pearson(right, effective, level),
            "jeffreys": intervals.jeffreys(right, effective, level),
        }
        if n > 2:
            rest = max(part["size"] - n, 1)
            found["difference"] = made(designs.difference(y, f, part["quality"], part["size"]), "difference")
            found["ppi++"] = made(designs.ppi_plus_plus(y, f, part["quality"], part["variance"], rest), "ppi++")
        else:
            found["difference"] = found["wilson"]
        return found
    if annotated.design == "stratified":
        return {"stratified": made(_stratified(annotated, label, known), "stratified")}
    everyone = np.ones(n)
    inclusion = annotated.inclusion[known]
    shift, variance = designs.ratio(y - f, everyone, inclusion)
    return {
        "difference": made((part["quality"] + shift, variance), "difference"),
        "inverse-probability": made(designs.ratio(y, everyone, inclusion), "inverse-probability"),
    }


def ranking_quality(annotated: AnnotatedSample, level: float = 0.95) -> dict[str, dict[str, Interval]]:
    """How good the ranking is: precision (share wrong) and recall (share of all wrong) of the flags and of top ks.

    Each is a ratio of two totals of the frame, weighted by inclusion probabilities; a top-k that holds fewer than
    five sampled rows is left out.
    """
    known = np.isfinite(annotated.values)
    wrong, inclusion = 1.0 - annotated.values[known], annotated.inclusion[known]
    parts: dict[str, Bools] = {"flagged": annotated.flagged[known]}
    for k in TOPS:
        within = annotated.rank[known] <= k
        if within.sum() >= FEWEST_IN_TOP and k < annotated.frame["size"]:
            parts[f"top {k}"] = within
    found = {}
    for name, part in parts.items():
        inside = part.astype(np.float64)
        precision = designs.ratio(wrong * inside, inside, inclusion)
        recall = designs.ratio(wrong * inside, wrong, inclusion)
        found[name] = {
            "precision": from_variance(precision[0], precision[1] * annotated.effect, int(part.sum()), "ratio", level),
            "recall": from_variance(recall[0], recall[1] * annotated.effect, int((wrong > 0.5).sum()), "ratio", level),
        }
    return found


def _annotated_sample(
    drawn: pa.Table, frame: dict[str, Any], values: Floats, groups: Mapping[str, str] | None
) -> AnnotatedSample:
    effect = 1.0
    known = np.isfinite(values)
    if groups is not None:
        clip_ids = drawn.column("clip_id").to_pylist()
        _, index = np.unique([groups.get(clip_id, clip_id) for clip_id in clip_ids], return_inverse=True)
        effect = intervals.design_effect(values[known], index[known])
    return AnnotatedSample(
        drawn.column("design")[0].as_py(),
        frame,
        values,
        drawn.column("inclusion_probability").to_numpy(),
        drawn.column("quality").to_numpy(),
        drawn.column("rank").to_numpy(),
        np.asarray(drawn.column("flagged")),
        np.asarray(drawn.column("stratum").to_pylist()),
        np.asarray(drawn.column("label").to_pylist()),
        effect,
    )


def _stratified(annotated: AnnotatedSample, label: str | None, known: Bools) -> tuple[float, float]:
    """Estimate and variance for a label with strata of its own, for one that shares them, or for all labels."""
    names = list(annotated.frame["strata"])
    own = names if label is None else [name for name in names if name.rpartition(" q")[0] == label]
    if own:
        counts = []
        for name in own:
            rows = known & (annotated.stratum == name)
            size = annotated.frame["strata"][name]["size"]
            counts.append(StratumCounts(size, int(rows.sum()), float(annotated.values[rows].sum())))
        return designs.stratified(counts)
    answered = np.isfinite(annotated.values)
    inside = known[answered].astype(np.float64)
    strata = np.array([names.index(name) for name in annotated.stratum[answered]], dtype=np.int64)
    sizes = np.array([annotated.frame["strata"][name]["size"] for name in names], dtype=np.int64)
    return designs.stratified_ratio(annotated.values[answered] * inside, inside, strata, sizes)


def _unsure(annotated: AnnotatedSample, spoken: Bools, level: float) -> dict[str, Any]:
    """How many answered rows nobody could tell, and what the estimate would be were they all wrong or all right."""
    missing = np.isnan(annotated.values) & spoken
    if not missing.any():
        return {"rows": 0}
    bounds = {}
    for name, value in (("if all wrong", 0.0), ("if all right", 1.0)):
        filled = replace(annotated, values=np.where(missing, value, annotated.values))
        bounds[name] = estimators(filled, None, level)[preferred(filled)]
    return {"rows": int(missing.sum()), **bounds}


def _votes(rows: pa.Table, answers: pa.Table, role: str) -> VoteTable:
    keys = list(zip(rows.column("clip_id").to_pylist(), rows.column("label").to_pylist(), strict=True))
    return vote_table(answers.filter(pc.equal(answers.column("role"), role)), keys)


def _gold(sample: pa.Table, answers: pa.Table, annotators: list[str]) -> tuple[Ints, Ints]:
    """Truths [gold rows] (1 the label applies) and the same annotators' votes on them."""
    rows = sample.filter(pc.equal(sample.column("role"), "gold"))
    keys = list(zip(rows.column("clip_id").to_pylist(), rows.column("label").to_pylist(), strict=True))
    truth = np.array([value == "right" for value in rows.column("truth").to_pylist()], dtype=np.int64)
    of_gold = answers.filter(pc.equal(answers.column("role"), "gold"))
    return truth, vote_table(of_gold, keys, annotators).votes


def _values(believed: Mapping[Key, RowConsensus], keys: list[Key], answered: set[Key], given: Bools) -> Floats:
    """[rows] probability that the list is right; NaN where nobody could tell.

    A gold row that was drawn counts once it is answered, like any other: counting it before would favor the gold rows.
    """
    beliefs = [believed[key].applies if key in answered else None for key in keys]
    applies = np.array([np.nan if belief is None else belief for belief in beliefs], dtype=np.float64)
    return np.where(given, applies, 1.0 - applies)


def _answered(answers: pa.Table) -> set[Key]:
    """Sampled rows with an answer, unsure ones included."""
    rows = answers.filter(pc.equal(answers.column("role"), "sample"))
    return set(zip(rows.column("clip_id").to_pylist(), rows.column("label").to_pylist(), strict=True))


def _apparent(annotated: AnnotatedSample, votes: VoteTable, given: Bools, level: float) -> Interval:
    """The headline by the sampled rows' own answers alone: what a correction for a fallible annotator starts from."""
    said = votes.votes.max(axis=1, initial=-1)
    values = np.where(said >= 0, said == given, np.nan)
    return estimators(replace(annotated, values=values), None, level)[preferred(annotated)]


def _annotators(
    sample: pa.Table,
    answers: pa.Table,
    votes: VoteTable,
    gold: tuple[Ints, Ints],
    apparent: Interval,
    seed: int,
    level: float,
) -> dict[str, Any]:
    """Who answered how much, agreement, skill on gold rows, and what a fallible annotator's figure corrects to."""
    truth, said = gold
    skill = {}
    for column, name in enumerate(votes.annotators):
        annotated = said[:, column]
        hits = {
            label: (int((annotated[truth == k] == k).sum()), int((annotated[truth == k] >= 0).sum()))
            for label, k in SIDES
        }
        skill[name] = hits
    found: dict[str, Any] = {
        "answers": {name: int((votes.votes[:, c] >= 0).sum()) for c, name in enumerate(votes.annotators)},
        "agreement": agreement(votes.votes, 2, seed, level=level),
        "self_agreement": _repeats(sample, answers, level),
        "gold": {
            name: {label: intervals.wilson(*hits, level) for label, hits in sides.items()}
            for name, sides in skill.items()
        },
    }
    given = bool(sample.column("given")[0].as_py())
    if len(votes.annotators) == 1:
        spread = apparent.estimate * (1.0 - apparent.estimate)
        effective = spread / _variance(apparent, level) if spread > 0 else apparent.n
        sides = skill[votes.annotators[0]]
        right, wrong = (sides["right"], sides["wrong"]) if given else (sides["wrong"], sides["right"])
        positive = apparent.estimate * effective
        found["corrected"] = rogan_gladen(positive, effective, right, wrong, seed, level=level)
    elif sample.column("design")[0].as_py() == "simple":
        found["dawid_skene"] = dawid_skene_share(votes.votes, 2, int(given), seed, level=level, gold=gold)
    return found


def _variance(interval: Interval, level: float) -> float:
    return max((interval.half_width / intervals.z_value(level)) ** 2, 1e-9)


def _repeats(sample: pa.Table, answers: pa.Table, level: float) -> Interval:
    """Share of repeated rows on which an annotator gave the same answer as before."""
    again = sample.filter(pc.equal(sample.column("role"), "repeat"))
    first, second = _votes(again, answers, "sample"), _votes(again, answers, "repeat")
    both = sorted(set(first.annotators) & set(second.annotators))
    one = first.votes[:, [first.annotators.index(name) for name in both]]
    two = second.votes[:, [second.annotators.index(name) for name in both]]
    pairs = (one >= 0) & (two >= 0)
    return intervals.wilson(int((one == two)[pairs].sum()), int(pairs.sum()), level)
