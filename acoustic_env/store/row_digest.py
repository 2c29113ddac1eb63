"""A digest of rows that does not depend on their order, so that a table can be compared with its sorted copy."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MODULUS: Final = 2**64
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)

Words = npt.NDArray[np.uint64]


def row_digest(table: pa.Table) -> int:
    """Return the sum over rows of a hash of all values of the row, modulo 2**64.

    The digest of two tables together is the sum of theirs.

    >>> one = pa.table({"clip_id": ["a", "b"], "v": [1.0, None]})
    >>> other = pa.table({"clip_id": ["a", "b"], "v": [None, 1.0]})
    >>> row_digest(one) == row_digest(one.take([1, 0])) != row_digest(other)
    True
    """
    rows = np.zeros(table.num_rows, np.uint64)
    for column in table.columns:
        rows = _mixed(rows * _ODD + _words(column.combine_chunks()))
    return int(rows.sum(dtype=np.uint64))


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return words ^ (words >> np.uint64(29))


def _words(array: pa.Array) -> Words:
    """A word of each value, of a list or a text one of all of its values in their order."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        inner = _words(array.values.slice(array.offset * size, len(array) * size)).reshape(len(array), size)
        place: Words = np.asarray(np.arange(size, dtype=np.uint64) * _ODD, np.uint64)
        words = np.asarray(_mixed(np.asarray(inner + place, np.uint64)).sum(axis=1), np.uint64)
    elif pa.types.is_list(array.type):
        words = _sums(_words(array.values), array.offsets.to_numpy())
    elif pa.types.is_string(array.type):
        _, offsets, data = array.buffers()
        starts = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        words = _sums(np.frombuffer(data or b"", np.uint8).astype(np.uint64), starts)
    else:
        values = (array.fill_null(0) if array.null_count else array).to_numpy(zero_copy_only=False)
        words = (
            values.astype(np.uint64) if values.dtype == bool else values.view(f"u{values.itemsize}").astype(np.uint64)
        )
    return np.where(np.asarray(array.is_null()), _ODD, words) if array.null_count else words


def _sums(inner: Words, offsets: npt.NDArray[np.int32]) -> Words:
    """A word of each list, from the words of all values and where each list begins."""
    starts = offsets.astype(np.int64)
    inner = inner[starts[0] : starts[-1]]
    starts -= starts[0]
    place = np.arange(len(inner)) - np.repeat(starts[:-1], np.diff(starts))
    sums = np.append(np.uint64(0), np.cumsum(_mixed(inner + place.astype(np.uint64) * _ODD), dtype=np.uint64))
    return sums[starts[1:]] - sums[starts[:-1]]
