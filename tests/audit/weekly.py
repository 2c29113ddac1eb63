"""Weekly runs with known truth: lists of unequal size, models that change, answers that come late.

`python -m tests.audit.weekly [RUNS [SHARE ...]]` prints the table of README, section 5. Everything goes through what
`reannotate` calls: `draw_frame`, `evaluate_frames`, `better_version`, `weekly_accuracy`.
"""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.frames import FrameEvaluation, FrameInfo, better_version, draw_frame, evaluate_frames
from acoustic_env.audit.reannotate import weekly_accuracy
from acoustic_env.audit.relabel import applies

START = dt.datetime(2026, 1, 5, 9, tzinfo=dt.UTC)
ABSENT = 0.1  # clips with a second row, of a label the list does not give


@dataclass(frozen=True)
class Model:
    """How a version decides rows without an answer: the share of wrong given labels it drops, and of right ones."""

    found: float
    spoiled: float


@dataclass
class Outcome:
    """What one run of many weeks did: whether each kind of interval held at all looks, and what was published."""

    frames_held: bool = True
    all_held: bool = True
    improvements_held: bool = True
    published: int = 0
    published_worse: int = 0
    half_width: float = float("nan")


def run_weeks(
    error: float, seed: int, weeks: int = 20, sizes: tuple[int, int] = (100, 10_000), budget: int = 100
) -> Outcome:
    """Take in one list a week and look every week, with share `error` of the given labels wrong on average."""
    rng = np.random.default_rng(seed)
    outcome, samples, annotations, truths = Outcome(), list[pa.Table](), list[pa.Table](), dict[str, bool]()
    evaluations: dict[int, FrameEvaluation] = {}  # by frame; only the last three frames get new answers
    published, in_force = None, Model(0.0, 0.0)
    candidates: dict[str, Model] = {}
    accurate: list[tuple[int, float]] = []  # rows of each frame, and the share its version is right on
    gains: list[float] = []
    optimistic = False
    for week in range(1, weeks + 1):
        name = f"v{week:04d}"
        model = _next_model(rng, in_force, optimistic)
        candidates[name] = model
        labels, base, truth = _list(week, error, sizes, model, in_force, rng)
        sample = draw_frame(
            [(labels, base, labels["clip_id"])], samples, FrameInfo(week, "list", name, published), budget, seed
        )
        assert sample is not None
        samples.append(sample)
        now, before = applies(labels), applies(base)
        inside = np.asarray(labels["given"]) | (now != before)
        accurate.append((int(inside.sum()), float((now == truth)[inside].mean())))
        gains.append(float((now == truth)[inside].mean() - (before == truth)[inside].mean()))
        truths |= dict(zip(_keys(labels), truth.tolist(), strict=True))
        annotations.append(_answers(samples[-3:], annotations[-3:], truths, week, rng))
        some = evaluate_frames(samples[-3:], pa.concat_tables(annotations[-3:]))
        evaluations |= {evaluation.info.number: evaluation for evaluation in some}
        evaluated = [evaluations[number] for number in sorted(evaluations)]
        if not evaluated:
            continue
        said = weekly_accuracy(evaluated)
        _check(outcome, said, evaluated, accurate, gains)
        optimistic = said["accuracy"]["estimate"] > accurate[said["accuracy"]["frame"] - 1][1]
        better = better_version(evaluated, published)
        if better is not None:
            outcome.published += 1
            outcome.published_worse += gains[better.info.number - 1] <= 0.0
            published, in_force = better.info.version, candidates[better.info.version]
    everything = evaluate_frames(samples, pa.concat_tables(annotations))
    assert [one.as_dict() for one in everything] == [evaluations[number].as_dict() for number in sorted(evaluations)]
    return outcome


def _check(
    outcome: Outcome, said: dict[str, Any], evaluated: list[Any], accurate: list[tuple[int, float]], gains: list[float]
) -> None:
    for evaluation in evaluated:
        shown, place = evaluation.as_dict(), evaluation.info.number - 1
        outcome.frames_held &= _holds(shown, accurate[place][1])
        outcome.improvements_held &= _holds(shown["improvement"], gains[place])
    there = [accurate[evaluation.info.number - 1] for evaluation in evaluated]
    everywhere = sum(rows * share for rows, share in there) / sum(rows for rows, _ in there)
    outcome.all_held &= _holds(said["accuracy_of_all"], everywhere)
    outcome.half_width = (said["accuracy_of_all"]["high"] - said["accuracy_of_all"]["low"]) / 2


def _holds(shown: dict[str, Any], truth: float) -> bool:
    return bool(shown["low"] - 1e-9 <= truth <= shown["high"] + 1e-9)


def _next_model(rng: np.random.Generator, in_force: Model, optimistic: bool) -> Model:
    """A better, a worse or a useless model; after an estimate that was too high, rather a worse one."""
    kind = rng.choice(["better", "as good", "worse"], p=[0.2, 0.2, 0.6] if optimistic else [0.5, 0.2, 0.3])
    if kind == "better":
        return Model(min(1.0, in_force.found + rng.uniform(0.1, 0.5)), in_force.spoiled * 0.8)
    if kind == "as good":
        return in_force
    return Model(in_force.found * rng.uniform(0.2, 1.0), in_force.spoiled + rng.uniform(0.0, 0.1))


def _list(
    week: int, error: float, sizes: tuple[int, int], model: Model, in_force: Model, rng: np.random.Generator
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """A new list as the next version and the published one decide it, and whether each label applies in truth."""
    clips = int(np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]))))
    extra = round(ABSENT * clips)
    ids = [f"w{week:02d}c{i:05d}" for i in (*range(clips), *range(extra))]
    given = np.arange(clips + extra) < clips
    wrong = rng.random(clips + extra) < error * rng.uniform(0.5, 1.5)
    versions = [
        pa.table(
            {
                "clip_id": ids,
                "label": np.where(given, "a", "b"),
                "given": given,
                "posterior": rng.random(clips + extra),
                "votes": pa.nulls(clips + extra, pa.list_(pa.string())),
                "action": np.where(
                    rng.random(clips + extra) < np.where(wrong, decides.found, decides.spoiled),
                    np.where(given, "drop", "add"),
                    "keep",
                ),
            }
        )
        for decides in ((model,) if model == in_force else (model, in_force))
    ]
    return versions[0], versions[-1], given ^ wrong


def _answers(
    samples: list[pa.Table], annotations: list[pa.Table], truths: dict[str, bool], week: int, rng: np.random.Generator
) -> pa.Table:
    """One perfect annotator who answers some of what is open, most of the new sample and the rest of earlier ones."""
    done = {key for table in annotations for key in _keys(table)}
    rows = []
    for sample in samples:
        most = rng.choice([0.0, 0.4, 1.0], p=[0.1, 0.3, 0.6])
        open_ = [key for key in _keys(sample) if key not in done]
        for key in open_[: round(most * len(open_))]:
            clip_id, label = key.split("\x00")
            chosen = "right" if truths[key] else "wrong"
            time = START + dt.timedelta(weeks=week, seconds=len(rows))
            row = {"clip_id": clip_id, "label": label, "annotator": "a", "answer": chosen, "time_utc": time}
            rows.append(row | {"role": "sample"})
    return pa.Table.from_pylist(rows, ANNOTATION_SCHEMA)


def _keys(table: pa.Table) -> list[str]:
    return [
        f"{clip}\x00{label}"
        for clip, label in zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True)
    ]


HEAD = """\
| labels wrong | all lists | each frame | improvements | published | runs that published a worse one | half-width |
|---|---|---|---|---|---|---|"""


def table_row(error: float, runs: int) -> str:
    """One row of the table: shares of runs in which each kind of interval held at all looks, and what was published."""
    found = [run_weeks(error, seed) for seed in range(runs)]
    held = [np.mean([getattr(one, kind) for one in found]) for kind in ("all_held", "frames_held", "improvements_held")]
    worse = np.mean([one.published_worse > 0 for one in found])
    published, width = np.mean([one.published for one in found]), np.median([one.half_width for one in found])
    shares = " | ".join(f"{share:.3f}" for share in held)
    return f"| {error:.0%} | {shares} | {published:.1f} | {worse:.3f} | {width:.3f} |"


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(HEAD)
    for planted in map(float, sys.argv[2:] or ("0.02", "0.05", "0.1", "0.2", "0.3")):
        print(table_row(planted, repeats), flush=True)
