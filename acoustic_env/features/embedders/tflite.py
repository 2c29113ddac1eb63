"""Reading a tflite file: its tensors and operators, with int8 weights dequantized. No TensorFlow needed.

Field numbers are those of tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flatbuffers import encode, packer
from flatbuffers import number_types as N  # noqa: N812
from flatbuffers.table import Table

from acoustic_env.errors import UsageError

# TensorType -> dtype, for the types that weights have.
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    4: np.dtype("<i8"),
    9: np.dtype("i1"),
}
# BuiltinOperator -> name, for the operators that carry weights.
OPERATORS: Final = {3: "conv", 4: "depthwise_conv", 9: "fully_connected"}


@dataclass(frozen=True)
class TfliteTensor:
    """One tensor of a model."""

    name: str  # as in the file
    shape: tuple[int, ...]  # as in the file
    values: npt.NDArray[Any] | None  # as stored, dequantized to float32 where quantized; None for activations


@dataclass(frozen=True)
class TfliteOperator:
    """One operator: its kind (a name of `OPERATORS`, or "" for the rest) and its input tensors."""

    kind: str
    inputs: tuple[TfliteTensor | None, ...]


def read_tflite(path: Path) -> list[TfliteOperator]:
    """Return the operators of a model's first graph, in the order they run.

    Raises:
        UsageError: not a tflite file, truncated, or of a type not known here.
    """
    data = path.read_bytes()
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise UsageError(f"{path}: not a tflite file")
    try:
        return _operators(_Table(data, encode.Get(packer.uoffset, data, 0)))
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: truncated or not a tflite file of the known kind: {error}") from error


class _Table(Table):  # type: ignore[misc]
    """A table of a FlatBuffer, its fields by number."""

    def scalar(self, number: int, flags: Any, default: int = 0) -> int:
        return int(self.GetSlot(4 + 2 * number, default, flags))

    def table(self, number: int) -> _Table | None:
        offset = self.Offset(4 + 2 * number)
        return _Table(self.Bytes, self.Indirect(self.Pos + offset)) if offset else None

    def tables(self, number: int) -> list[_Table]:
        offset = self.Offset(4 + 2 * number)
        count = self.VectorLen(offset) if offset else 0
        return [_Table(self.Bytes, self.Indirect(self.Vector(offset) + 4 * i)) for i in range(count)]

    def array(self, number: int, flags: Any) -> npt.NDArray[Any]:
        offset = self.Offset(4 + 2 * number)
        return self.GetVectorAsNumpy(flags, offset) if offset else np.zeros(0, flags.py_type)


def _operators(model: _Table) -> list[TfliteOperator]:
    codes = [max(code.scalar(0, N.Int8Flags), code.scalar(3, N.Int32Flags)) for code in model.tables(1)]
    graph = model.tables(2)[0]
    buffers = [buffer.array(0, N.Uint8Flags) for buffer in model.tables(4)]
    tensors = [_tensor(table, buffers) for table in graph.tables(0)]
    return [
        TfliteOperator(
            OPERATORS.get(codes[operator.scalar(0, N.Uint32Flags)], ""),
            tuple(None if i < 0 else tensors[i] for i in operator.array(1, N.Int32Flags)),
        )
        for operator in graph.tables(3)
    ]


def _tensor(table: _Table, buffers: Sequence[npt.NDArray[np.uint8]]) -> TfliteTensor:
    name = table.array(3, N.Uint8Flags).tobytes().decode()
    shape = tuple(int(n) for n in table.array(0, N.Int32Flags))
    stored = buffers[table.scalar(2, N.Uint32Flags)]
    if not stored.size:
        return TfliteTensor(name, shape, None)
    kind = table.scalar(1, N.Int8Flags)
    if kind not in _DTYPES:
        return TfliteTensor(name, shape, None)
    values = stored.view(_DTYPES[kind]).reshape(shape)
    quantization = table.table(4)
    if quantization is None or kind != 9:
        return TfliteTensor(name, shape, values)
    return TfliteTensor(name, shape, _dequantized(values, quantization))


def _dequantized(values: npt.NDArray[Any], quantization: _Table) -> npt.NDArray[np.float32]:
    """Compute (q - zero point) * scale, with one scale for all or one for each index along the quantized axis."""
    scale, zero = quantization.array(2, N.Float32Flags), quantization.array(3, N.Int64Flags)
    if scale.size == 0:
        return values.astype(np.float32)
    along = [1] * values.ndim
    along[quantization.scalar(6, N.Int32Flags)] = scale.size
    zero = np.broadcast_to(zero if zero.size else np.zeros(1, np.int64), scale.shape)
    centered: npt.NDArray[np.float32] = values.astype(np.float32) - zero.reshape(along).astype(np.float32)
    return centered * scale.reshape(along).astype(np.float32)
