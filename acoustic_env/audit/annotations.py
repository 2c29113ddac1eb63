"""What listeners said: the verdict table, shared by the listening page and the estimates.

One row per answer: `clip_id`, `label`, `listener`, `verdict`, `note`, `time_utc`, `role` (of the sample row: sample,
gold, repeat), `seconds` spent on it. Answers are never overwritten; where a listener answered the same row again, the
latest counts.

    right               the label applies
    incomplete          the label applies, others that apply are missing
    wrong               the label does not apply; what is heard has another label of the vocabulary
    out_of_vocabulary   the label does not apply; no label of the vocabulary does
    unsure              cannot tell
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.table import require_columns
from acoustic_env.errors import UsageError

VERDICTS: Final = ("right", "wrong", "incomplete", "out_of_vocabulary", "unsure")
# Whether the label applies; unsure is no answer.
APPLIES: Final = {"right": 1, "incomplete": 1, "wrong": 0, "out_of_vocabulary": 0, "unsure": -1}
ROLES: Final = ("sample", "gold", "repeat")

VERDICT_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("listener", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("note", pa.string()),
        pa.field("time_utc", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("seconds", pa.float64()),
    ]
)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class VoteTable:
    """Verdicts as numbers.

    Attributes:
        keys: (clip_id, label) of each row.
        listeners: names, sorted.
        votes: [rows, listeners] 1 the label applies, 0 it does not, -1 unsure or not answered.
    """

    keys: list[tuple[str, str]]
    listeners: list[str]
    votes: Ints


def check_verdicts(table: pa.Table, where: str) -> pa.Table:
    """The table in `VERDICT_SCHEMA`.

    Raises:
        UsageError: a column is missing or a value is not one of those listed above; names file, row and column.
    """
    table = require_columns(table, VERDICT_SCHEMA, where, "a verdict table")
    for column, allowed in (("verdict", VERDICTS), ("role", ROLES)):
        known = pc.is_in(table.column(column), pa.array(allowed))
        if not pc.all(known, min_count=0).as_py():
            row = known.to_pylist().index(False)
            value = table.column(column)[row].as_py()
            msg = f"{where}: row {row + 1:,}, column {column!r}: {value!r} is not one of {', '.join(allowed)}"
            raise UsageError(msg)
    return table


def latest(verdicts: pa.Table) -> pa.Table:
    """The last answer of each (clip, label, listener, role), in order of time."""
    ordered = verdicts.sort_by([("time_utc", "ascending")]).combine_chunks()
    keys = zip(*(ordered.column(name).to_pylist() for name in ("clip_id", "label", "listener", "role")), strict=True)
    last = {key: row for row, key in enumerate(keys)}
    return ordered.take(pa.array(sorted(last.values()), pa.int64()))


def vote_table(verdicts: pa.Table, keys: list[tuple[str, str]], listeners: list[str] | None = None) -> VoteTable:
    """The latest verdicts on the given rows.

    Args:
        verdicts: of one role, from `latest`.
        keys: (clip_id, label) of the rows wanted.
        listeners: columns wanted; all of the verdicts' when None.
    """
    named = sorted(set(verdicts.column("listener").to_pylist())) if listeners is None else listeners
    row_of = {key: row for row, key in enumerate(keys)}
    column_of = {name: column for column, name in enumerate(named)}
    votes = np.full((len(keys), len(named)), -1, dtype=np.int64)
    for entry in verdicts.select(["clip_id", "label", "listener", "verdict"]).to_pylist():
        row, column = row_of.get((entry["clip_id"], entry["label"])), column_of.get(entry["listener"])
        if row is not None and column is not None:
            votes[row, column] = APPLIES[entry["verdict"]]
    return VoteTable(keys, named, votes)
