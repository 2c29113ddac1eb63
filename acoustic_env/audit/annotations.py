"""The annotation table, shared by the annotation page and the estimates.

One row per answer: `clip_id`, `label`, `annotator`, `answer`, `note`, `time_utc`, `role` (of the sample row: sample,
gold, repeat), `seconds` spent on it. The latest answer of an annotator to a row counts.

    right               the label applies
    incomplete          the label applies, others that apply are missing
    wrong               the label does not apply; another label of the vocabulary does
    out_of_vocabulary   the label does not apply; no label of the vocabulary does
    unsure              cannot tell
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from acoustic_env.audit.intervals import Ints
from acoustic_env.audit.table import key_pairs, require_columns, require_values, table_schema

ANSWERS: Final = ("right", "wrong", "incomplete", "out_of_vocabulary", "unsure")
# Whether the label applies; unsure is no answer.
APPLIES: Final = {"right": 1, "incomplete": 1, "wrong": 0, "out_of_vocabulary": 0, "unsure": -1}
ROLES: Final = ("sample", "gold", "repeat")

# Names of columns and journal keys in files of earlier releases.
OLD_NAMES: Final = {"listener": "annotator", "verdict": "answer"}

ANNOTATION_SCHEMA: Final = table_schema(
    dict.fromkeys(("clip_id", "label", "annotator", "answer", "note"), pa.string())
    | {"time_utc": pa.timestamp("us", tz="UTC"), "role": pa.string(), "seconds": pa.float64()},
    nullable=("note", "seconds"),
)


@dataclass(frozen=True)
class VoteTable:
    """Annotations as numbers.

    Attributes:
        annotators: names, sorted.
        votes: [rows, annotators] 1 the label applies, 0 it does not, -1 unsure or not answered.
    """

    annotators: list[str]
    votes: Ints


def rename_old_columns(table: pa.Table, where: str) -> pa.Table:
    """Return a table whose columns have their present names; logs a note where they had old ones."""
    old = [name for name, new in OLD_NAMES.items() if name in table.column_names and new not in table.column_names]
    if old:
        log_old_names(where, old)
    return table.rename_columns([OLD_NAMES[name] if name in old else name for name in table.column_names])


def log_old_names(where: str, old: Sequence[str]) -> None:
    """Log that a file written by an earlier release has old names of columns or keys."""
    renamed = ", ".join(f"{name} as {OLD_NAMES[name]}" for name in old)
    print(f"acoustic-env: {where}: written by an earlier release; reading {renamed}", file=sys.stderr)  # noqa: T201


def check_annotations(table: pa.Table, where: str) -> pa.Table:
    """Return the table in `ANNOTATION_SCHEMA`; the old names of its columns are accepted.

    Raises:
        UsageError: a column is missing or a value is not allowed; names file, row and column.

    >>> import pyarrow.parquet as pq
    >>> check_annotations(pq.read_table("annotations.parquet"), "annotations.parquet")["note"].null_count
    110
    """
    table = require_columns(rename_old_columns(table, where), ANNOTATION_SCHEMA, where, "an annotation table")
    require_values(table, {"answer": ANSWERS, "role": ROLES}, where)
    return table


def latest(annotations: pa.Table) -> pa.Table:
    """Return the last answer of each (clip, label, annotator, role), in order of time; of equal times the later row.

    >>> row = {"clip_id": "a", "label": "rain", "annotator": "Ada", "role": "sample"}
    >>> answers = [row | {"answer": "wrong", "time_utc": 1}, row | {"answer": "right", "time_utc": 2}]
    >>> latest(pa.Table.from_pylist(answers, ANNOTATION_SCHEMA))["answer"].to_pylist()
    ['right']
    """
    ordered = annotations.sort_by([("time_utc", "ascending")]).combine_chunks()
    keys = zip(*(ordered.column(name).to_pylist() for name in ("clip_id", "label", "annotator", "role")), strict=True)
    last = {key: row for row, key in enumerate(keys)}
    return ordered.take(pa.array(sorted(last.values()), pa.int64()))


def vote_table(annotations: pa.Table, keys: list[tuple[str, str]], annotators: list[str] | None = None) -> VoteTable:
    """Return the latest annotations of the given rows as votes.

    Args:
        annotations: of one role, from `latest`.
        keys: (clip_id, label) of the rows wanted.
        annotators: columns wanted; all of the annotations' when None.

    >>> answers = {"clip_id": ["a", "a", "b"], "label": ["rain"] * 3, "annotator": ["Ada", "Ben", "Ben"]}
    >>> annotations = pa.table({**answers, "answer": ["incomplete", "wrong", "unsure"]})
    >>> vote_table(annotations, [("a", "rain"), ("b", "rain")])
    VoteTable(annotators=['Ada', 'Ben'], votes=array([[ 1,  0],
           [-1, -1]]))
    """
    named = sorted(set(annotations.column("annotator").to_pylist())) if annotators is None else annotators
    row_of = {key: row for row, key in enumerate(keys)}
    column_of = {name: column for column, name in enumerate(named)}
    votes = np.full((len(keys), len(named)), -1, dtype=np.int64)
    said = (annotations[name].to_pylist() for name in ("annotator", "answer"))
    for key, annotator, answer in zip(key_pairs(annotations), *said, strict=True):
        row, column = row_of.get(key), column_of.get(annotator)
        if row is not None and column is not None:
            votes[row, column] = APPLIES[answer]
    return VoteTable(named, votes)
