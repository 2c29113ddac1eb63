"""The table that travels through the graph: one row per clip, waveforms and finished rows as list columns.

clip_id, uri, start_s, end_s     from the clip list
need                             int64, one bit per missing (block, signal) (`pipeline.work`)
attempt                          int32, 1 for a clip that never failed before
byte_offset, byte_size           int64, from the clip list, null where it does not say
wave:<rate>[:<signal>]           list<float32>, dropped once nothing needs it
rows:<block>                     list<struct of the block's table row>
errors                           list<struct<stage, code, message, permanent, block, signal>>
seconds:<stage>                  float64, time spent on the clip
memory:<pool>                    int64, peak memory of the worker so far, bytes
node:<pool>                      string, the node of the worker
busy:<pool>                      float64, the worker's time, shared evenly by the clips of its task
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.errors import ClipError, ErrorCode
from acoustic_env.io.location import scrub

TEXT: Final = pa.string()
ERRORS_TYPE: Final = pa.list_(
    pa.struct({"stage": TEXT, "code": TEXT, "message": TEXT, "permanent": pa.bool_(), "block": TEXT, "signal": TEXT})
)
MAX_MESSAGE: Final = 1000
ROWS: Final = "rows:"
SECONDS: Final = "seconds:"
MEMORY: Final = "memory:"
NODE: Final = "node:"
BUSY: Final = "busy:"

WORK_SCHEMA: Final = pa.schema(
    {"clip_id": TEXT, "uri": TEXT, "start_s": pa.float64(), "end_s": pa.float64()}
    | {"need": pa.int64(), "attempt": pa.int32()}
    | {"byte_offset": pa.int64(), "byte_size": pa.int64()}
)

Piece = tuple[pa.Table, npt.NDArray[np.int64]]  # rows of a block, and of each its clip's position in the batch


class RowError(NamedTuple):
    """What went wrong with one clip in one stage: with its source, or with one signal of one block."""

    stage: str
    code: ErrorCode | Literal["resolved"]
    message: str
    permanent: bool
    block: str | None = None
    signal: str | None = None


def row_error(stage: str, error: Exception) -> RowError:
    """Any failure as an error of a clip; what is not a `ClipError` is the stage's own failure."""
    if isinstance(error, ClipError):
        return RowError(stage, error.code, scrub(error.message)[:MAX_MESSAGE], error.permanent)
    # PyTorch's class of this name is a RuntimeError.
    if isinstance(error, MemoryError) or "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}:
        return RowError(stage, "out_of_memory", "the worker ran out of memory", permanent=False)
    code: ErrorCode = "decode_failed" if stage == "decode" else "compute_failed"
    return RowError(stage, code, scrub(f"{type(error).__name__}: {error}")[:MAX_MESSAGE], permanent=True)


def wave_column(rate: int, signal: str | None = None) -> str:
    """Name of the column that holds waveforms at a rate, decoded (no signal) or prepared."""
    return f"wave:{rate}" if signal is None else f"wave:{rate}:{signal}"


def wave_signals(columns: Sequence[str], rate: int) -> list[str]:
    """Return the signals with a column of prepared waveforms at a rate."""
    prefix = f"{wave_column(rate)}:"
    return [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]


def pack_waves(waves: Sequence[npt.NDArray[np.float32] | None]) -> pa.Array:
    """list<float32>[clips]; None becomes null."""
    offsets = np.cumsum([0, *(0 if wave is None else len(wave) for wave in waves)], dtype=np.int64)
    values = np.concatenate([np.empty(0, np.float32), *(wave for wave in waves if wave is not None)])
    mask = pa.array([wave is None for wave in waves], pa.bool_())
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values, pa.float32()), mask=mask)


def unpack_waves(column: pa.ChunkedArray) -> list[npt.NDArray[np.float32] | None]:
    """The waveforms without copying; null becomes None."""
    return [wave.values.to_numpy() if wave.is_valid else None for wave in column]


def pack_errors(errors: Sequence[Sequence[RowError]]) -> pa.Array:
    """list<struct>[clips] from each clip's errors."""
    return pa.array([[error._asdict() for error in clip] for clip in errors], ERRORS_TYPE)


def unpack_errors(clips: pa.Table) -> list[list[RowError]]:
    """The errors of each clip so far."""
    if "errors" not in clips.column_names:
        return [[] for _ in range(clips.num_rows)]
    return [[RowError(**error) for error in errors] for errors in clips["errors"].to_pylist()]


def pack_rows(pieces: Sequence[Piece], clips: int, schema: pa.Schema) -> pa.Array:
    """Finished rows of a block as list<struct>[clips].

    Args:
        pieces: of the block's table.
        clips: clips in the batch.
        schema: the block's table schema.
    """
    table = pa.concat_tables([schema.empty_table(), *(rows for rows, _ in pieces)]).combine_chunks()
    owner = np.concatenate([np.empty(0, np.int64), *(owners for _, owners in pieces)])
    order = np.argsort(owner, kind="stable")
    structs = table.to_struct_array()
    struct = structs.combine_chunks() if structs.num_chunks else pa.array([], structs.type)
    offsets = np.searchsorted(owner[order], np.arange(clips + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct.take(pa.array(order)))


def unpack_rows(column: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """The finished rows of all clips as the block's own table."""
    pieces = [pa.Table.from_struct_array(chunk.flatten()) for chunk in column.chunks if len(chunk)]
    filled = [piece.cast(schema) for piece in pieces if piece.num_rows]
    return pa.concat_tables([schema.empty_table(), *filled]).combine_chunks()
