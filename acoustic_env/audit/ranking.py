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

from acoustic_env.audit.intervals import Floats
from acoustic_env.errors import UsageError

RANKED_COLUMNS: Final = {
    "clip_id": pa.string(),
    "label": pa.string(),
    "given": pa.bool_(),
    "quality": pa.float64(),
    "flagged": pa.bool_(),
}


def check_ranked(table: pa.Table, where: str) -> pa.Table:
    """Return the table with plain column types.

    Raises:
        UsageError: a column is missing, holds nulls or values that cannot be; names the file and the column.
    """
    missing = [name for name in RANKED_COLUMNS if name not in table.column_names]
    if missing:
        msg = (
            f"{where}: no column {missing[0]!r}; a ranked table has {', '.join(RANKED_COLUMNS)} (make one: audit rank)"
        )
        raise UsageError(msg)
    if table.num_rows == 0:
        msg = f"{where}: no rows"
        raise UsageError(msg)
    for name, kind in RANKED_COLUMNS.items():
        column = table.column(name)
        if column.null_count:
            msg = f"{where}: column {name!r} has {column.null_count} nulls"
            raise UsageError(msg)
        try:
            table = table.set_column(table.column_names.index(name), name, column.cast(kind).combine_chunks())
        except pa.ArrowInvalid as error:
            msg = f"{where}: column {name!r} is {column.type}, not {kind}: {error}"
            raise UsageError(msg) from error
    low, high = pc.min_max(table.column("quality")).as_py().values()
    if not 0.0 <= low <= high <= 1.0:
        msg = f"{where}: column 'quality' runs from {low:g} to {high:g}; it must lie in 0 to 1"
        raise UsageError(msg)
    return table


def scorer_names(table: pa.Table) -> list[str]:
    """Return the names of the scorer columns of a ranked table."""
    return [name for name in table.column_names if name not in RANKED_COLUMNS]


def quality_of(table: pa.Table) -> Floats:
    """Return [rows] the quality column."""
    values: Floats = table.column("quality").to_numpy()
    return values


def suspicion_rank(quality: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return [rows] the place of each row from most (1) to least suspect; ties in row order."""
    place = np.empty(len(quality), dtype=np.int64)
    place[np.argsort(quality, kind="stable")] = np.arange(1, len(quality) + 1)
    return place
