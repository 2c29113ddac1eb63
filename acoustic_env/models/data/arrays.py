"""Arrays and plain values as one safetensors file, in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save


def dump_arrays(arrays: Mapping[str, npt.NDArray[Any]], described: Mapping[str, Any]) -> bytes:
    """Return arrays and values for JSON as a safetensors file.

    >>> data = dump_arrays({"mean": np.zeros(2)}, {"task": "binary"})
    >>> type(data).__name__, data[8:22]
    ('bytes', b'{"__metadata__')
    """
    own = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(own, {name: json.dumps(value) for name, value in described.items()})


def load_arrays(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the arrays and values that `dump_arrays` stored.

    >>> load_arrays(dump_arrays({"mean": np.zeros(2)}, {"task": "binary"}))
    ({'mean': array([0., 0.])}, {'task': 'binary'})
    """
    described = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return load(data), {name: json.loads(value) for name, value in described.items()}
