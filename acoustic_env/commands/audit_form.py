"""Shared by the `audit` commands: a checked ranked table, results as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def ranked_table(url: str) -> pa.Table:
    """Return the ranked table at `url`, checked."""
    from acoustic_env.audit.ranking import check_ranked
    from acoustic_env.audit.table import read_table

    return check_ranked(read_table(url), url)


def plain(value: Any) -> Any:
    """Return plain data: intervals as dictionaries, NaN and infinity as None."""
    from acoustic_env.audit.intervals import Interval

    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
