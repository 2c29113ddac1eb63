"""Planted label errors: in labels, and in ranked tables with a perfect annotator."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from scipy.special import expit, ndtri

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.sample import draw_sample
from acoustic_env.options import Design, SampleSettings

Errors = Literal["uniform", "ambiguous"]


def planted(
    rows: int, rate: float, auc: float, errors: Errors, seed: int, given: bool = True
) -> tuple[pa.Table, np.ndarray]:
    """A ranked table of one label and whether the label applies.

    The evidence for a row's true state is normal with unit variance, its mean such that a ranking by it has the AUC.
    Errors fall uniformly, or in proportion to 1 - |2p - 1| with p the true probability. `quality` is the true
    probability of the state the list gives, were errors symmetric.

    Args:
        rows: of the table.
        rate: share of rows about which the list is wrong.
        auc: of the ranking by evidence, above 1/2 (of the errors, when they are uniform).
        errors: where they fall.
        seed: of everything.
        given: whether the list gives the label to these rows, or to none of them.
    """
    rng = np.random.default_rng(seed)
    mean = ndtri(auc) / np.sqrt(2)
    evidence = rng.normal(mean, 1.0, rows)
    p = expit(2 * mean * evidence)
    weight = np.ones(rows) if errors == "uniform" else 1.0 - np.abs(2 * p - 1) + 1e-9
    wrong = np.zeros(rows, dtype=bool)
    wrong[rng.choice(rows, round(rate * rows), replace=False, p=weight / weight.sum())] = True
    quality = expit(2 * mean * np.where(wrong, -evidence, evidence))
    names = [f"{'given' if given else 'absent'}{i:05d}" for i in range(rows)]
    table = pa.table(
        {
            "clip_id": names,
            "label": ["urban"] * rows,
            "given": [given] * rows,
            "quality": quality,
            "flagged": quality < 0.5,
            "logistic": quality,
        }
    )
    return table, wrong != given


def drawn(ranked: pa.Table, n: int, design: Design, seed: int) -> pa.Table:
    """A sample of the table's rows, of which all are given or all are not."""
    absent = not ranked["given"][0].as_py()
    return draw_sample(ranked, SampleSettings(n=n, design=design, seed=seed, absent=absent, repeat=0.0))


def answered(sample: pa.Table, applies: np.ndarray) -> pa.Table:
    """What a perfect annotator says of the sample."""
    ids = sample["clip_id"].to_pylist()
    rows = np.array([int(clip_id.lstrip("givenabst")) for clip_id in ids])
    columns = {
        "clip_id": sample["clip_id"],
        "label": sample["label"],
        "annotator": pa.array(["ada"] * len(ids)),
        "answer": pa.array(np.where(applies[rows], "right", "wrong")),
        "note": pa.nulls(len(ids), pa.string()),
        "time_utc": pa.array(np.arange(len(ids)), pa.timestamp("us", tz="UTC")),
        "role": sample["role"],
        "seconds": pa.nulls(len(ids), pa.float64()),
    }
    return pa.table({name: columns[name] for name in ANNOTATION_SCHEMA.names}).cast(ANNOTATION_SCHEMA)


def plant_errors(
    labels: np.ndarray, rate: float, rng: np.random.Generator, ambiguity: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a known share of labels by wrong ones.

    Args:
        labels: [n] true classes 0..K-1.
        rate: share of examples whose label becomes another class; exactly round(rate n) of them.
        rng: source of randomness.
        ambiguity: [n] non-negative; errors fall in proportion to it. None: uniformly.

    Returns:
        [n] given labels and [n] which of them are wrong.
    """
    labels = np.asarray(labels, dtype=np.int64)
    classes = int(labels.max()) + 1
    weights = None if ambiguity is None else np.asarray(ambiguity, dtype=np.float64) + 1e-12
    chosen = rng.choice(
        len(labels), round(rate * len(labels)), replace=False, p=None if weights is None else weights / weights.sum()
    )
    given = labels.copy()
    given[chosen] = (labels[chosen] + rng.integers(1, max(classes, 2), size=len(chosen))) % max(classes, 2)
    return given, given != labels
