"""A ranked table with known truth, and annotators who answer it."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

START = dt.datetime(2026, 11, 21, 9, tzinfo=dt.UTC)


def ranked_with_truth(rows: int = 3000, wrong: float = 0.26, seed: int = 1) -> tuple[pa.Table, np.ndarray]:
    """Two classes of different quality, a miscalibrated score (AUC about 0.8), and which labels are right."""
    rng = np.random.default_rng(seed)
    label = np.where(rng.random(rows) < 0.6, "nature", "urban")
    right = rng.random(rows) >= np.where(label == "urban", 1.4, 0.73) * wrong
    quality = 1 / (1 + np.exp(-(0.8 + 1.5 * (right - 0.5) + rng.normal(0, 1.0, rows))))
    table = pa.table(
        {
            "clip_id": [f"clip{i:05d}" for i in range(rows)],
            "label": label,
            "given": np.ones(rows, dtype=bool),
            "quality": quality,
            "flagged": quality < 0.4,
            "logistic": quality,
        }
    )
    return table, right


def listen(
    sample: pa.Table,
    right: np.ndarray,
    skill: dict[str, float],
    seed: int,
    unsure: float = 0.0,
) -> pa.Table:
    """Annotations of annotators who are right with their given probability; gold rows are known from the sample."""
    rng = np.random.default_rng(seed)
    rows = []
    for annotator, sure in skill.items():
        for entry in sample.to_pylist():
            truth = entry["truth"] == "right" if entry["truth"] else bool(right[int(entry["clip_id"][4:])])
            said = truth if rng.random() < sure else not truth
            chosen = "unsure" if rng.random() < unsure else ("right" if said else "wrong")
            rows.append(
                {
                    "clip_id": entry["clip_id"],
                    "label": entry["label"],
                    "annotator": annotator,
                    "answer": chosen,
                    "note": None,
                    "time_utc": START + dt.timedelta(seconds=len(rows)),
                    "role": entry["role"],
                    "seconds": 8.0,
                }
            )
    return pa.Table.from_pylist(rows)
