"""The feature matrix of a study: blocks of the store joined by clip, one named column per feature and signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.spool import RowFile
from acoustic_env.models.data.frames import Sequences, load_sequences
from acoustic_env.models.data.stored_frames import frame_columns, frames_block
from acoustic_env.store.feature_store import FeatureStore, wanted_schema
from acoustic_env.store.schema import as_matrix, describe

KEYS: Final = ("clip_id", "signal")
SHOWN: Final = 3


@dataclass(frozen=True)
class FeatureColumn:
    """Where a column of the matrix comes from.

    Attributes:
        block, signal: of the store.
        name: the block's column, with its cell in brackets for a vector, as in `embedding[17]`.

    >>> str(FeatureColumn("vggish", "raw", "embedding[17]"))
    'vggish.raw.embedding[17]'
    """

    block: str
    signal: str
    name: str

    def __str__(self) -> str:
        return f"{self.block}.{self.signal}.{self.name}"


@dataclass(frozen=True)
class FeatureMatrix:
    """Features of clips.

    Attributes:
        clip_ids: [n], the order of the rows.
        values: float32 [n, d], NaN where a feature is undefined or the block has no row for the clip; or `Sequences`,
            zeros where it has none, with a column for each signal; or `SpooledRows`, of which `take` gives an array.
        columns: [d].
        fingerprints: block -> signal -> the version its columns come from.
        absent: (block, signal) -> ids of the clips without a row.

    >>> columns = [FeatureColumn("indices", signal, "ACI") for signal in ("raw", "bg")]
    >>> values, versions = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32), {"indices": {"raw": "1f", "bg": "2f"}}
    >>> matrix = FeatureMatrix(["a", "b"], values, columns, versions, {("indices", "bg"): ["b"]})
    >>> matrix.complete().tolist(), matrix.restrict([("indices", "raw")]).values.tolist()
    ([True, False], [[1.0], [3.0]])
    >>> matrix.summary()
    ['block indices, signal bg: no row for 1 of 2 clips (b)']
    """

    clip_ids: list[str]
    values: Any
    columns: list[FeatureColumn]
    fingerprints: dict[str, dict[str, str]]
    absent: dict[tuple[str, str], list[str]]

    def parts(self) -> dict[tuple[str, str], npt.NDArray[np.int64]]:
        """Return (block, signal) -> its column numbers, in order."""
        found: dict[tuple[str, str], list[int]] = {}
        for number, column in enumerate(self.columns):
            found.setdefault((column.block, column.signal), []).append(number)
        return {key: np.array(numbers, np.int64) for key, numbers in found.items()}

    def restrict(self, parts: Sequence[tuple[str, str]]) -> FeatureMatrix:
        """Return the matrix of some (block, signal) parts only, in the order given."""
        there = self.parts()
        if isinstance(self.values, Sequences):
            if set(parts) == set(there):
                return self
            raise UsageError(
                "a network on sequences takes all blocks and signals of the study; name fewer with --blocks, --signals"
            )
        fingerprints: dict[str, dict[str, str]] = {}
        for block, signal in parts:
            fingerprints.setdefault(block, {})[signal] = self.fingerprints[block][signal]
        numbers = np.concatenate([there[part] for part in parts])
        return FeatureMatrix(
            clip_ids=self.clip_ids,
            values=self.values[:, numbers],
            columns=[self.columns[number] for number in numbers],
            fingerprints=fingerprints,
            absent={part: ids for part, ids in self.absent.items() if part in parts},
        )

    def complete(self) -> npt.NDArray[np.bool_]:
        """Return clips that have a row in every block and signal; bool [n]."""
        lacking = {clip_id for ids in self.absent.values() for clip_id in ids}
        return np.array([clip_id not in lacking for clip_id in self.clip_ids], np.bool_)

    def take(self, rows: npt.NDArray[Any]) -> FeatureMatrix:
        """Return some rows (index or mask)."""
        numbers = np.arange(len(self.clip_ids))[rows]
        clip_ids = [self.clip_ids[number] for number in numbers]
        kept = set(clip_ids)
        absent = {part: [i for i in ids if i in kept] for part, ids in self.absent.items()}
        return FeatureMatrix(clip_ids, self.values[numbers], self.columns, self.fingerprints, absent)

    def held(self) -> FeatureMatrix:
        """Return the matrix with frames that are still in the store read into memory."""
        return replace(self, values=self.values.held()) if isinstance(self.values, Sequences) else self

    def summary(self) -> list[str]:
        """Describe what lacks rows, and for how many clips, with examples."""
        return [
            f"block {block}, signal {signal}: no row for {len(ids):,} of {len(self.clip_ids):,} clips "
            f"({', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''})"
            for (block, signal), ids in self.absent.items()
            if ids
        ]


def load_matrix(
    store: FeatureStore,
    clip_ids: Sequence[str],
    blocks: Sequence[str],
    signals: Sequence[str],
    fingerprints: Mapping[str, Sequence[str]] | None = None,
    *,
    spooled: bool = False,
) -> FeatureMatrix:
    """Load features of clips from the store, blocks side by side, signals side by side within a block.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        blocks: in the order of the columns.
        signals: the same. A signal that a block has for none of the clips is an error.
        fingerprints: block -> versions, for blocks that are there in several; the only ones otherwise.
        spooled: keep them on disk, not in memory.

    Raises:
        UsageError: no such block or version, a per-frame block, or no row of a (block, signal) for any clip.

    >>> matrix = load_matrix(FeatureStore("features"), ["clip000", "clip001"], ["indices"], ["raw"])
    >>> matrix.values.shape, len(matrix.columns), str(matrix.columns[0])
    ((2, 7), 7, 'indices.raw.f0')
    """
    ids = list(clip_ids)
    listed = pa.array(ids, pa.string())
    versions = {block: store.resolve(block, signals, (fingerprints or {}).get(block, ())) for block in blocks}
    columns: list[FeatureColumn] = []
    parts: list[RowFile | _Rows] = []
    absent: dict[tuple[str, str], list[str]] = {}
    for block in blocks:
        for signal in signals:
            if signal not in versions[block]:
                raise _no_row(block, signal, len(ids))
        names, loaded = _load_block(store, block, versions[block], listed, RowFile if spooled else _Rows)
        for signal in signals:
            lacking = np.flatnonzero(~loaded[signal].written)
            if len(lacking) == len(ids):
                raise _no_row(block, signal, len(ids))
            columns += [FeatureColumn(block, signal, name) for name in names]
            parts.append(loaded.pop(signal))
            absent[block, signal] = [ids[row] for row in lacking]
    if spooled:
        return FeatureMatrix(ids, SpooledRows(parts), columns, versions, absent)
    # Joined part by part, each freed at once: two copies of one part, never of the whole matrix.
    values = np.empty((len(ids), len(columns)), np.float32)
    start = 0
    while parts:
        part = parts.pop(0)
        values[:, start : start + part.shape[1]] = part[:]
        start += part.shape[1]
    return FeatureMatrix(ids, values, columns, versions, absent)


def load_frames(
    store: FeatureStore,
    clip_ids: Sequence[str],
    blocks: Sequence[str],
    signals: Sequence[str],
    fingerprints: Mapping[str, Sequence[str]] | None = None,
    *,
    frames: int | None = None,
    unread: bool = False,
) -> FeatureMatrix:
    """Load the frames of clips from the store for a network on sequences, as `load_matrix` loads features.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        blocks: one, with frames; the frames of NAME are those of NAME_frames.
        signals: side by side, as further bands of each frame.
        fingerprints: block -> versions, for blocks that are there in several; the only ones otherwise.
        frames: of a clip: longer clips are cropped to their start, shorter ones repeated; None for as many as most
            clips have.
        unread: leave them in the store (`load_sequences`).

    Raises:
        UsageError: more than one block, one without frames, or no row of a signal for any clip.
    """
    if len(blocks) != 1:
        msg = f"a network on sequences takes the frames of one block, not of {', '.join(blocks)}; name it with --blocks"
        raise UsageError(msg)
    block = frames_block(blocks[0])
    versions = store.resolve(block, signals, (fingerprints or {}).get(block, ()))
    lacking = next((signal for signal in signals if signal not in versions), None)
    if lacking is not None:
        raise _no_row(block, lacking, len(clip_ids))
    values, found = load_sequences(store, clip_ids, block, versions, frames, unread=unread)
    absent = {
        (block, signal): [clip_ids[row] for row in np.flatnonzero(~there).tolist()] for signal, there in found.items()
    }
    columns = [FeatureColumn(block, signal, "frames") for signal in versions]
    return FeatureMatrix(list(clip_ids), values, columns, {block: versions}, absent)


def computed_matrix(
    tables: Mapping[tuple[str, str], pa.Table], clip_ids: Sequence[str], *, frames: bool
) -> FeatureMatrix:
    """Return features that were just computed as `load_matrix` or `load_frames` would read them from a store.

    Args:
        tables: (block, signal) -> its rows, clips in their order; parts in the order of the columns.
        clip_ids: [n].
        frames: whether a network on sequences reads them.
    """
    columns: list[FeatureColumn] = []
    parts: list[npt.NDArray[np.float32]] = []
    fingerprints: dict[str, dict[str, str]] = {}
    for (block, signal), table in tables.items():
        if frames:
            names = ["frames"]
            bands = [np.nan_to_num(as_matrix(table[name])) for name in frame_columns(block, table.schema)]
            rows = np.concatenate(bands, axis=1, dtype=np.float32)
            parts.append(rows.reshape(len(clip_ids), -1, rows.shape[1]))
        else:
            names = _column_names(table.schema)
            parts.append(_row_values(table))
        columns += [FeatureColumn(block, signal, name) for name in names]
        described = describe(table.schema.metadata)
        assert described is not None
        fingerprints.setdefault(block, {})[signal] = described.fingerprint
    values = np.concatenate(parts, axis=-1)
    return FeatureMatrix(list(clip_ids), Sequences(values) if frames else values, columns, fingerprints, {})


def _no_row(block: str, signal: str, clips: int) -> UsageError:
    msg = f"block {block} has no row of signal {signal} for any of the {clips:,} clips"
    return UsageError(f"{msg}; extract it, or leave it out with --blocks or --signals")


class _Rows:
    """`RowFile` in memory."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self.written = np.zeros(rows, np.bool_)
        self._values = np.full((rows, columns), np.nan, np.float32)

    def write(self, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        self._values[rows] = values
        self.written[rows] = True

    def __getitem__(self, rows: npt.NDArray[Any] | slice) -> npt.NDArray[np.float32]:
        return self._values[rows]


class SpooledRows:
    """Features [clips, features] on this machine's disk: an index, mask or slice of clips reads them.

    Args:
        parts: side by side.
    """

    ndim: Final = 2

    def __init__(self, parts: Sequence[RowFile | _Rows]) -> None:
        self._parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: npt.NDArray[Any] | slice) -> npt.NDArray[np.float32]:
        """Return some clips as float32 [n, features]."""
        return np.concatenate([part[rows] for part in self._parts], axis=1)


def _load_block(
    store: FeatureStore, block: str, versions: Mapping[str, str], listed: pa.Array, rows_of: type[RowFile | _Rows]
) -> tuple[list[str], dict[str, RowFile | _Rows]]:
    """Return the names of a block's columns and, of each signal, its rows, in one pass over the parts."""
    schema = store.joint_schema(block, versions)
    if "frame" in schema.names:
        raise UsageError(f"block {block} is a table per frame; a classifier of clips takes blocks with one row a clip")
    # Frames of varying number (vggish_released) are no features of a clip; their mean and deviation are.
    columns = [field.name for field in schema if field.name not in KEYS and not pa.types.is_list(field.type)]
    wanted = wanted_schema(schema, columns, store.url)
    names = _column_names(wanted)
    loaded = {signal: rows_of(len(listed), len(names)) for signal in versions}
    for table, places in store.placed(block, versions, wanted, listed):
        signal_of = table["signal"].combine_chunks()
        for signal in pc.unique(signal_of).to_pylist():
            own = pc.equal(signal_of, signal)
            of_signal = places[own.to_numpy(zero_copy_only=False)]
            new = ~loaded[signal].written[of_signal]  # a key of two parts comes twice
            loaded[signal].write(of_signal[new], _row_values(table.filter(own))[new])
    return names, loaded


def _column_names(schema: pa.Schema) -> list[str]:
    names: list[str] = []
    for column in schema:
        if column.name in KEYS:
            continue
        if pa.types.is_fixed_size_list(column.type):
            names += [f"{column.name}[{cell}]" for cell in range(column.type.list_size)]
        else:
            names.append(column.name)
    return names


def _row_values(rows: pa.Table) -> npt.NDArray[np.float32]:
    """Return the columns of a table as float32 [rows, cells]; null becomes NaN."""
    parts = [as_matrix(rows[name]) for name in rows.column_names if name not in KEYS]
    return np.concatenate(parts, axis=1, dtype=np.float32) if parts else np.empty((len(rows), 0), np.float32)
