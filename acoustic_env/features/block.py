"""The contract of a feature block: waveforms in, named columns out, always batched."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.signals import Engine as Engine
from acoustic_env.errors import UsageError

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Waveforms = npt.NDArray[np.float32] | npt.NDArray[np.float64]  # [clips, samples]
Columns = dict[str, npt.NDArray[Any]]

METADATA_PREFIX: Final = "acoustic_env."


@dataclass(frozen=True)
class Column:
    """One column of a block's table.

    Attributes:
        name: column name in the table.
        type: `pa.float64()` for a scalar, `pa.list_(pa.float32(), n)` for a vector of n.
        unit: SI unit or "1" when dimensionless.
        description: one line of human-readable text.

    >>> Column("mfcc_mean", pa.list_(pa.float32(), 20), "dB", "mean over frames").size
    20
    """

    name: str
    type: pa.DataType
    unit: str
    description: str

    @property
    def size(self) -> int:
        """Length of the vector; 1 for a scalar."""
        return int(self.type.list_size) if pa.types.is_fixed_size_list(self.type) else 1


class FeatureBlock(ABC):
    """One family of features of one signal.

    Subclasses are built as `Block(engine, **options)`, raise `UsageError` for options they do not know, and do no heavy
    work before `load`. Adding a block is one file and one line in `features/registry.py`.

    Attributes:
        name: the block's name and its folder in the store.
        version: raised whenever the block's numbers change for the same input and parameters.
        sample_rate: the rate in Hz the block's waveforms must have.
        columns: the table's columns after `clip_id` and `signal`.
        frame_hop_s: None for one row per (clip, signal); else the block is a per-frame table, every array of
            `compute` has a frame axis after the clip axis, and rows gain `frame` and `start_s`.
        architecture: the network the block runs, if any; blocks of one network share their workers and its output.
        bytes_per_s: memory that `compute` takes for each second of one waveform; it bounds the length of clips.
        handmade: computed without anything learned from sounds; the study shows it beside every embedder.
        mel_bands: its rows are frames of a mel spectrogram, which its parameters n_mels, fmin, fmax and log describe.
        golden: whether golden.json has its numbers, which every node must reproduce.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    engine: Engine
    sample_rate: int
    columns: tuple[Column, ...]
    frame_hop_s: float | None = None
    architecture: ClassVar[str | None] = None
    handmade: ClassVar[bool] = False
    golden: ClassVar[bool] = False
    mel_bands: ClassVar[bool] = False
    bytes_per_s: ClassVar[int] = 3 * 2**19  # measured: indices 0.5 MiB, mps 0.7, reference engines twice that

    @property
    def gpu_pool(self) -> str | None:
        """The pool of workers that takes the block where there are GPUs; None for a block of processors only."""
        return self.architecture

    @abstractmethod
    def parameters(self) -> dict[str, Json]:
        """Return everything besides name, version and audio that can change a number (weights' sha256 included)."""

    def metadata(self) -> dict[str, str]:
        """Return what a reader of the table needs beyond the columns: axes, library versions, weights' origin."""
        return {}

    def load(self, device: str) -> None:  # noqa: B027  most blocks have nothing to load
        """Load models once per worker. `device` is "cpu" or "cuda".

        Raises:
            UsageError: the device is not there, or the weights are not.
        """

    @abstractmethod
    def compute(self, waveforms: Waveforms) -> Columns:
        """Compute the features of a batch.

        Args:
            waveforms: float32 (or float64, for parity tests) [clips, samples] at `sample_rate`, all of one length.

        Returns:
            For each column name an array [clips] or [clips, size]. NaN or inf marks an undefined number; it is stored
            as null. One clip's numbers do not depend on the other clips of the batch.

        Raises:
            ClipError: never for one clip of many; a clip with undefined features gets NaN.
        """


def check_device(device: str, asked_by: str) -> None:
    """Raise UsageError unless PyTorch can compute there.

    Raises:
        UsageError: "cuda" without a GPU.
    """
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"{asked_by}: device cuda was asked for, but PyTorch sees no GPU; use --device cpu")


def fingerprint(block: FeatureBlock, audio: Mapping[str, Json]) -> str:
    """Return 16 hex digits over exactly what can change a number of a block's rows of one signal, and nothing else.

    Covered: the block's name, version, engine and parameters (weights' sha256 included), and of the audio what concerns
    the signal, so that another separator leaves the rows of raw as they are. Library releases count where the library
    computes the number (the reference engine), not where our own code does (the fast engine: its version counts).
    Releases of NumPy, SciPy and PyTorch are not covered: they move last digits, within the tolerance of each column,
    and a worker that computes more than that of the golden clip refuses to start (`features.golden`).

    Args:
        block: the block with its parameters.
        audio: what of the audio can change the signal (`audio.prepare.parameters`).

    >>> from acoustic_env.audio.prepare import parameters
    >>> from acoustic_env.features.registry import make_block
    >>> block = make_block("logmel", "fast", {"n_mels": 40})
    >>> raw, other = (fingerprint(block, parameters(block.sample_rate, "fast", name)) for name in ("raw", "fg"))
    >>> len(raw), raw == other
    (16, False)
    """
    settings = {"block": block.name, "version": block.version, "engine": block.engine}
    payload = {**settings, "parameters": block.parameters(), "audio": dict(audio)}
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def table_schema(block: FeatureBlock, audio: Mapping[str, Json], signals: Sequence[str] = ()) -> pa.Schema:
    """Return the Arrow schema of a table, with block, version, fingerprint, settings and units in its metadata.

    Args:
        block: the block.
        audio: as `fingerprint`.
        signals: those that have this fingerprint, for readers; none says that any may be in the table.

    >>> from acoustic_env.features.registry import make_block
    >>> schema = table_schema(make_block("indices", "fast"), {"rms": 0.1}, ["raw"])
    >>> schema.names[:4], schema.field("LEQt").metadata[b"unit"]
    (['clip_id', 'signal', 'ZCR', 'MEANt'], b'dB SPL')
    >>> schema.metadata[b"acoustic_env.sample_rate"]
    b'16000'
    """
    described = {
        "block": block.name,
        "version": str(block.version),
        "engine": block.engine,
        "fingerprint": fingerprint(block, audio),
        "sample_rate": str(block.sample_rate),
        "parameters": json.dumps(block.parameters(), sort_keys=True),
        "audio": json.dumps(dict(audio), sort_keys=True),
        **block.metadata(),
    }
    if signals:
        described["signals"] = ",".join(signals)
    if block.frame_hop_s is not None:
        described["frame_hop_s"] = repr(block.frame_hop_s)
    return described_schema(block.columns, described, per_frame=block.frame_hop_s is not None)


def described_schema(columns: Sequence[Column], described: Mapping[str, str], *, per_frame: bool = False) -> pa.Schema:
    """Return the Arrow schema of a table: its keys, its columns with units, and what describes the whole.

    >>> described_schema([Column("ACI", pa.float64(), "1", "acoustic complexity")], {"block": "indices"}).names
    ['clip_id', 'signal', 'ACI']
    """
    fields = [pa.field("clip_id", pa.string(), nullable=False), pa.field("signal", pa.string(), nullable=False)]
    if per_frame:
        fields.append(pa.field("frame", pa.int32(), nullable=False))
        fields.append(pa.field("start_s", pa.float64(), nullable=False))
    fields += [
        pa.field(column.name, column.type, metadata={"unit": column.unit, "description": column.description})
        for column in columns
    ]
    return pa.schema(fields, metadata={METADATA_PREFIX + key: value for key, value in described.items()})


def to_table(schema: pa.Schema, clip_ids: Sequence[str], signals: Sequence[str], columns: Columns) -> pa.Table:
    """Return the rows of a table for one batch; non-finite scalars and vectors with a non-finite cell become null.

    Args:
        schema: from `table_schema`.
        clip_ids, signals: [clips].
        columns: from `FeatureBlock.compute`; with a frame axis when the schema has a `frame` column.

    >>> schema = described_schema([Column("ACI", pa.float64(), "1", "acoustic complexity")], {})
    >>> to_table(schema, ["a", "b"], ["raw", "raw"], {"ACI": np.array([2.5, np.nan])}).to_pylist()
    [{'clip_id': 'a', 'signal': 'raw', 'ACI': 2.5}, {'clip_id': 'b', 'signal': 'raw', 'ACI': None}]
    """
    arrays = {"clip_id": pa.array(clip_ids, pa.string()), "signal": pa.array(signals, pa.string())}
    if "frame" in schema.names:
        frames = next(iter(columns.values())).shape[1]
        hop = float(schema.metadata[(METADATA_PREFIX + "frame_hop_s").encode()])
        index = np.tile(np.arange(frames, dtype=np.int32), len(clip_ids))
        repeat = pa.array(np.repeat(np.arange(len(clip_ids)), frames))
        arrays = {name: array.take(repeat) for name, array in arrays.items()}
        arrays |= {"frame": pa.array(index), "start_s": pa.array(index * hop)}
        columns = {name: values.reshape(-1, *values.shape[2:]) for name, values in columns.items()}
    for field in schema:
        if field.name not in arrays:
            arrays[field.name] = _column_array(columns[field.name], field.type)
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _column_array(values: npt.NDArray[Any], arrow_type: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(arrow_type):
        scalars = np.asarray(values)
        mask = ~np.isfinite(scalars) if np.issubdtype(scalars.dtype, np.floating) else None
        return pa.array(scalars, arrow_type, mask=mask)
    vectors = np.ascontiguousarray(values).reshape(len(values), arrow_type.list_size)
    flat = pa.array(vectors.ravel(), arrow_type.value_type)
    mask = pa.array(~np.isfinite(vectors).all(axis=1))
    return pa.FixedSizeListArray.from_arrays(flat, type=arrow_type, mask=mask)
