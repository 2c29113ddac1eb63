"""Reading a tflite file: its tensors and operators, with int8 weights dequantized. No TensorFlow needed.

A FlatBuffer is read in place: a table starts with the distance back to its vtable, which lists where each field lies
(0: absent). Field numbers are those of tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
    """One tensor of a model.

    Attributes:
        name: as in the file.
        shape: as in the file.
        values: the stored numbers, dequantized to float32 where they are quantized; None for activations.
    """

    name: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | None


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
        msg = f"{path}: not a tflite file"
        raise UsageError(msg)
    try:
        return _operators(_Table(data, struct.unpack_from("<I", data, 0)[0]))
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        msg = f"{path}: truncated or not a tflite file of the known kind: {error}"
        raise UsageError(msg) from error


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer at a byte position."""

    data: bytes
    position: int

    def _field(self, number: int) -> int | None:
        vtable = self.position - struct.unpack_from("<i", self.data, self.position)[0]
        size = struct.unpack_from("<H", self.data, vtable)[0]
        slot = 4 + 2 * number
        offset = struct.unpack_from("<H", self.data, vtable + slot)[0] if slot < size else 0
        return self.position + offset if offset else None

    def scalar(self, number: int, layout: str, default: int = 0) -> int:
        at = self._field(number)
        return default if at is None else int(struct.unpack_from(layout, self.data, at)[0])

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return None if at is None else _Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])

    def tables(self, number: int) -> list[_Table]:
        start, count = self._vector(number)
        places = [start + 4 * i for i in range(count)]
        return [_Table(self.data, at + struct.unpack_from("<I", self.data, at)[0]) for at in places]

    def array(self, number: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        start, count = self._vector(number)
        return np.frombuffer(self.data, dtype, count, start) if count else np.zeros(0, dtype)

    def text(self, number: int) -> str:
        return self.array(number, np.uint8).tobytes().decode()

    def _vector(self, number: int) -> tuple[int, int]:
        at = self._field(number)
        if at is None:
            return 0, 0
        start = at + struct.unpack_from("<I", self.data, at)[0]
        return start + 4, struct.unpack_from("<I", self.data, start)[0]


def _operators(model: _Table) -> list[TfliteOperator]:
    codes = [max(code.scalar(0, "<b"), code.scalar(3, "<i")) for code in model.tables(1)]
    graph = model.tables(2)[0]
    buffers = [buffer.array(0, np.uint8) for buffer in model.tables(4)]
    tensors = [_tensor(table, buffers) for table in graph.tables(0)]
    return [
        TfliteOperator(
            OPERATORS.get(codes[operator.scalar(0, "<I")], ""),
            tuple(None if i < 0 else tensors[i] for i in operator.array(1, "<i4")),
        )
        for operator in graph.tables(3)
    ]


def _tensor(table: _Table, buffers: Sequence[npt.NDArray[np.uint8]]) -> TfliteTensor:
    name, shape = table.text(3), tuple(int(n) for n in table.array(0, "<i4"))
    stored = buffers[table.scalar(2, "<I")]
    if not stored.size:
        return TfliteTensor(name, shape, None)
    kind = table.scalar(1, "<b")
    if kind not in _DTYPES:
        return TfliteTensor(name, shape, None)
    values = stored.view(_DTYPES[kind]).reshape(shape)
    quantization = table.table(4)
    if quantization is None or kind != 9:
        return TfliteTensor(name, shape, values)
    return TfliteTensor(name, shape, _dequantized(values, quantization))


def _dequantized(values: npt.NDArray[Any], quantization: _Table) -> npt.NDArray[np.float32]:
    """Compute (q - zero point) * scale, with one scale for all or one for each index along the quantized axis."""
    scale, zero = quantization.array(2, "<f4"), quantization.array(3, "<i8")
    if scale.size == 0:
        return values.astype(np.float32)
    along = [1] * values.ndim
    along[quantization.scalar(6, "<i")] = scale.size
    zero = np.broadcast_to(zero if zero.size else np.zeros(1, np.int64), scale.shape)
    centered: npt.NDArray[np.float32] = values.astype(np.float32) - zero.reshape(along).astype(np.float32)
    return centered * scale.reshape(along).astype(np.float32)
