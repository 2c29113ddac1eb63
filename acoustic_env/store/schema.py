"""The tables' schemas, their keys, and how a part describes itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.features.block import METADATA_PREFIX

# An error without a block is one of the source: its bytes cannot be had or decoded. One with a block is one of this
# version of the block, for this signal of this source.
ERROR_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # as clips.sources.describe_source
        pa.field("block", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("signal", pa.string()),
        pa.field("stage", pa.string(), nullable=False),  # decode, prepare or compute
        pa.field("code", pa.string(), nullable=False),  # one of errors.CLIP_ERRORS, or errors.RESOLVED
        pa.field("message", pa.string()),
        pa.field("permanent", pa.bool_(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),  # at the clip, 1 for the first
        pa.field("run_id", pa.string(), nullable=False),
    ]
)
SOURCE_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),  # as clips.sources.canonical_uris
        pa.field("start_s", pa.float64()),  # null: from the beginning
        pa.field("end_s", pa.float64()),  # null: to the end
        pa.field("revision", pa.int32(), nullable=False),  # from 1; of one id the highest is current
        pa.field("run_id", pa.string()),  # of the run that recorded it; null: an import
    ]
)
KEY_SCHEMA: Final = pa.schema([("clip_id", pa.string()), ("signal", pa.string())])
ROW_KEYS: Final = ("clip_id", "signal", "frame")
DIGEST_DIGITS: Final = 32


@dataclass(frozen=True)
class Described:
    """One version of a block in a store, as its parts' metadata describe it.

    Attributes:
        block: name.
        fingerprint: 16 hex digits over what can change a number.
        signals: those whose rows it covers; empty where any may be in its rows.
        version: of the block's code.
        engine: fast or reference.
        sample_rate: Hz.
        parameters: the block's.
        audio: of the signals (decoding, RMS normalization, separation).
        made_with: everything else: library versions, axes, weights' sha256 and origin.
    """

    block: str
    fingerprint: str
    signals: tuple[str, ...] = ()
    version: str = ""
    engine: str = ""
    sample_rate: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, str]:
        """Return what the fingerprint covers as flat `name: value`, to compare two versions."""
        flat = {"version": self.version, "engine": self.engine, "sample_rate": self.sample_rate}
        for group, values in (("parameters", self.parameters), ("audio", self.audio)):
            flat |= {f"{group}.{name}": json.dumps(value, sort_keys=True) for name, value in values.items()}
        return flat


def describe(metadata: Mapping[bytes, bytes] | None) -> Described | None:
    """Return the version that a schema's or a Parquet footer's metadata describe; None where they name none."""
    prefix = METADATA_PREFIX.encode()
    named = {
        key[len(prefix) :].decode(): value.decode() for key, value in (metadata or {}).items() if key.startswith(prefix)
    }
    if "block" not in named or "fingerprint" not in named:
        return None
    known = {name: named.pop(name, "") for name in ("block", "fingerprint", "version", "engine", "sample_rate")}
    return Described(
        **known,
        signals=tuple(filter(None, named.pop("signals", "").split(","))),
        parameters=_mapping(named.pop("parameters", "")),
        audio=_mapping(named.pop("audio", "")),
        made_with=named,
    )


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {"unreadable": text}
    return value if isinstance(value, dict) else {"value": value}


def row_keys(schema: pa.Schema) -> list[str]:
    """Return the columns that make a row unique: clip_id and signal, for a per-frame table frame as well."""
    return [name for name in ROW_KEYS if name in schema.names]


def as_matrix(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column of vectors as [rows, size] and one of numbers as [rows, 1], NaN for null.

    >>> as_matrix(pa.chunked_array([pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))]))
    array([[ 1.,  2.],
           [nan, nan]])
    """
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))[:, None]
    rows = column.combine_chunks()
    found = np.full((len(rows), rows.type.list_size), np.nan, rows.type.value_type.to_pandas_dtype())
    found[np.asarray(rows.is_valid())] = rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, rows.type.list_size)
    return found


def sort_by_key(table: pa.Table) -> pa.Table:
    """Sort rows by their keys."""
    return table.sort_by([(name, "ascending") for name in row_keys(table.schema)]).combine_chunks()


def repeats(table: pa.Table) -> pa.Array:
    """Return bool[rows] of a table sorted by key: whether the row has the key of the one before."""
    if table.num_rows == 0:
        return pa.array([], pa.bool_())
    same = np.zeros(table.num_rows, bool)
    same[1:] = True
    for name in row_keys(table.schema):
        codes = table[name].combine_chunks()
        if not pa.types.is_integer(codes.type):
            codes = codes.dictionary_encode().indices
        values = codes.to_numpy(zero_copy_only=False)
        same[1:] &= values[1:] == values[:-1]
    return pa.array(same)


def digest(table: pa.Table, columns: list[str], extra: str) -> str:
    """Compute the hex digest of columns of a table in row order, and of a text: the same keys give the same name.

    Args:
        table: sorted.
        columns: strings, integers or booleans, without nulls.
        extra: what else tells two tables apart.
    """
    found = hashlib.sha256(f"{extra}\n{table.num_rows}\n{','.join(columns)}\n".encode())
    for name in columns:
        values = table[name].combine_chunks()
        if pa.types.is_string(values.type):
            lengths = np.diff(np.frombuffer(values.buffers()[1], np.int32, len(values) + 1, values.offset * 4))
            found.update(lengths.astype("<i4").tobytes())
            found.update("".join(values.to_pylist()).encode())
        else:
            found.update(values.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    return found.hexdigest()[:DIGEST_DIGITS]
