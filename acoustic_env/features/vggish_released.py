"""Block `vggish_released`: the embeddings AudioSet publishes, one VGGish vector a second, already quantized.

It is not computed from waveforms, so it is only a schema and what makes a clip's row of its frames.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.features.block import Column, described_schema

NAME: Final = "vggish_released"
WRITTEN_BY: Final = "acoustic-env clips from-audioset-embeddings writes it to the store"
VERSION: Final = 1
SIZE: Final = 128
FRAME_S: Final = 0.96
FRAMES: Final = 10  # of a clip; shorter ones repeat theirs
SIGNAL: Final = "raw"
SOURCE: Final = "AudioSet released embeddings (TFRecord SequenceExample, audio_embedding): VGGish, PCA, 8 bit"
# The release's quantization: [-2, 2] to 0..255 (tensorflow/models, audioset/vggish/vggish_postprocess.py).
LOWEST: Final = -2.0
STEP: Final = 4.0 / 255.0

COLUMNS: Final = (
    Column("frames", pa.list_(pa.list_(pa.uint8(), SIZE)), "1", "1 to 10 frames of about 1 s as released, 0 to 255"),
    Column("mean", pa.list_(pa.float32(), SIZE), "1", "mean over frames of the dequantised embedding, -2 to 2"),
    Column("std", pa.list_(pa.float32(), SIZE), "1", "standard deviation over frames (population), 0 to 2"),
)


def schema() -> pa.Schema:
    """Return the Arrow schema of the block's table, metadata as `features.block.table_schema` writes it.

    >>> schema().names
    ['clip_id', 'signal', 'frames', 'mean', 'std']
    """
    parameters = {"source": SOURCE, "lowest": LOWEST, "step": STEP}
    covered = {"block": NAME, "version": VERSION, "parameters": parameters}
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    described = {
        "block": NAME,
        "version": str(VERSION),
        "engine": "reference",
        "signals": SIGNAL,
        "fingerprint": hashlib.sha256(canonical.encode()).hexdigest()[:16],
        "sample_rate": "16000",
        "parameters": json.dumps(parameters, sort_keys=True),
        "audio": "{}",
        "origin": "https://research.google.com/audioset/download.html",
        "license": "CC BY 4.0",
    }
    return described_schema(COLUMNS, described)


def dequantized(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return embeddings, float32 of the same shape, -2 to 2.

    >>> dequantized(np.array([0, 255], np.uint8)).tolist()
    [-2.0, 2.0]
    """
    return np.asarray(frames * np.float32(STEP) + np.float32(LOWEST))


def rows(clip_ids: list[str], frames: list[npt.NDArray[np.uint8]]) -> pa.Table:
    """Return the rows of the block, of each clip uint8 [frames, 128], at least one frame.

    >>> frames = [np.array([[0] * 128, [255] * 128], np.uint8), np.full((1, 128), 128, np.uint8)]
    >>> table = rows(["a", "b"], frames)
    >>> [len(clip) for clip in table["frames"].to_pylist()]
    [2, 1]
    >>> [round(clip[0], 3) for clip in table["mean"].to_pylist()], [clip[0] for clip in table["std"].to_pylist()]
    ([0.0, 0.008], [2.0, 0.0])
    """
    lengths = np.array([len(of) for of in frames])
    joined = np.concatenate(frames) if frames else np.empty((0, SIZE), np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.intp)
    # Sums of bytes are whole numbers: mean and deviation do not depend on the order or the machine.
    counts = lengths[:, None].astype(np.float64)
    totals = np.add.reduceat(joined.astype(np.int64), starts) if frames else np.empty((0, SIZE), np.int64)
    squares = np.add.reduceat(joined.astype(np.int64) ** 2, starts) if frames else totals
    means = totals / counts
    deviations = np.sqrt(np.maximum(counts * squares - totals**2, 0)) / counts
    arrow_frames = pa.FixedSizeListArray.from_arrays(pa.array(joined.ravel()), SIZE)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.table(
        [
            pa.array(clip_ids, pa.string()),
            pa.array([SIGNAL] * len(clip_ids), pa.string()),
            pa.ListArray.from_arrays(offsets, arrow_frames),
            _vectors(means * STEP + LOWEST),
            _vectors(deviations * STEP),
        ],
        schema=schema(),
    )


def _vectors(values: npt.NDArray[np.float64]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), SIZE)
