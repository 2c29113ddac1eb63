"""The ranked table: what `audit rank` writes and planning, sampling and relabeling read.

One row per clip and class of the study: `clip_id`, `label`, `given` (whether the list gives the clip that label),
`quality` in 0 to 1 (how well the scorers support the list on this row; low = suspect), `flagged`, then one column
per scorer in the same orientation. A row with `given` false is about a label the list does not give: low quality
means that it may be missing. A quality is a rank, not a probability of being right, and the share of flagged rows is
not an error rate: only an annotated probability sample gives one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.intervals import Floats, Ints
from acoustic_env.audit.table import require_columns, table_schema
from acoustic_env.errors import UsageError

RANKED_SCHEMA: Final = table_schema(
    {"clip_id": pa.string(), "label": pa.string(), "given": pa.bool_(), "quality": pa.float64(), "flagged": pa.bool_()}
)


def check_ranked(table: pa.Table, where: str) -> pa.Table:
    """Return the table with plain column types.

    Raises:
        UsageError: a column is missing, holds nulls or values that cannot be; names the file and the column.

    >>> row = {"clip_id": ["a"], "label": ["rain"], "given": [True], "quality": [0.2], "flagged": [True], "mlp": [0.1]}
    >>> check_ranked(pa.table(row), "ranked.csv").column_names
    ['clip_id', 'label', 'given', 'quality', 'flagged', 'mlp']
    """
    ranked = require_columns(table, RANKED_SCHEMA, where, "a ranked table of `audit rank`")
    if table.num_rows == 0:
        raise UsageError(f"{where}: no rows")
    low, high = pc.min_max(ranked["quality"]).as_py().values()
    if not 0.0 <= low <= high <= 1.0:
        raise UsageError(f"{where}: column 'quality' runs from {low:g} to {high:g}; it must lie in 0 to 1")
    for name in scorer_names(table):
        ranked = ranked.append_column(name, table[name])
    return ranked


def rank_by_quality(rows: pa.Table, quality: Floats) -> pa.Table:
    """Return a ranked table of the rows' clip_id, label and given, flagged where the quality is below 1/2.

    >>> rows = pa.table({"clip_id": ["a"], "label": ["rain"], "given": [True]})
    >>> rank_by_quality(rows, np.array([0.2]))["flagged"].to_pylist()
    [True]
    """
    known = [rows[name] for name in ("clip_id", "label", "given")]
    return pa.table([*known, pa.array(quality), pa.array(quality < 0.5)], names=RANKED_SCHEMA.names)


def scorer_names(table: pa.Table) -> list[str]:
    """Return the names of the scorer columns of a ranked table.

    >>> scorer_names(RANKED_SCHEMA.append(pa.field("mlp", pa.float64())).empty_table())
    ['mlp']
    """
    return [name for name in table.column_names if name not in RANKED_SCHEMA.names]


def quality_of(table: pa.Table) -> Floats:
    """Return [rows] the quality column.

    >>> quality_of(pa.table({"quality": [0.2, 0.9]}))
    array([0.2, 0.9])
    """
    values: Floats = table.column("quality").to_numpy()
    return values


def suspicion_rank(quality: Floats) -> Ints:
    """Return [rows] the place of each row from most (1) to least suspect; ties in row order.

    >>> suspicion_rank(np.array([0.9, 0.1, 0.5]))
    array([3, 1, 2])
    """
    place = np.empty(len(quality), dtype=np.int64)
    place[np.argsort(quality, kind="stable")] = np.arange(1, len(quality) + 1)
    return place
