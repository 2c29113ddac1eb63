"""A digest that tells any change of a value, and nothing of the order of rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from acoustic_env.store.row_digest import MODULUS, row_digest

ROWS: list[dict[str, Any]] = [
    {"clip_id": f"clip {i}", "frame": i, "x": None if i == 2 else i / 3, "v": None if i == 3 else [i, -1.0, 2.0],
     "frames": [[i, 1], [2, i]][: i % 3], "ok": i % 2 == 0}
    for i in range(6)
]  # fmt: skip
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("frame", pa.int32()),
        ("x", pa.float64()),
        ("v", pa.list_(pa.float32(), 3)),
        ("frames", pa.list_(pa.list_(pa.uint8(), 2))),
        ("ok", pa.bool_()),
    ]
)


def digest(rows: list[dict[str, Any]]) -> int:
    return row_digest(pa.Table.from_pylist(rows, schema=SCHEMA))


def test_order_and_cuts_do_not_count() -> None:
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    assert digest(ROWS[::-1]) == digest(ROWS)
    assert (row_digest(table.slice(0, 2)) + row_digest(table.slice(2))) % MODULUS == digest(ROWS)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (1, "clip_id", "clip 11"),
        (1, "clip_id", "lcip 1"),
        (1, "frame", 7),
        (2, "x", 0.0),
        (1, "x", 0.5),
        (3, "v", [0.0, 0.0, 0.0]),
        (1, "v", [-1.0, 1.0, 2.0]),
        (2, "frames", [[1, 2], [2, 2]]),
        (2, "frames", [[2, 1]]),
        (0, "ok", False),
    ],
)
def test_every_other_value_is_another_digest(row: int, column: str, value: Any) -> None:
    changed = [dict(of) for of in ROWS]
    changed[row][column] = value
    assert digest(changed) != digest(ROWS)


def test_values_that_change_rows_are_another_digest() -> None:
    changed = [dict(of) for of in ROWS]
    changed[0]["x"], changed[1]["x"] = changed[1]["x"], changed[0]["x"]
    assert digest(changed) != digest(ROWS)
