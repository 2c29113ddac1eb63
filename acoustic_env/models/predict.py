"""Predictions of a bundle as a table: a row per clip, or recording, and class."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.decode import decode
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data.windows import pool_recordings, window_times
from acoustic_env.models.predictor import Decode, Prediction, Predictor
from acoustic_env.stats.intervals import Floats
from acoustic_env.store.feature_store import FeatureStore

PREDICTION_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("posterior", pa.float64(), nullable=False),  # calibrated probability, 0 to 1
    ]
)
WINDOW_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("unlike", pa.bool_()),  # whether the window is unlike the training clips; null where not known
        *list(PREDICTION_SCHEMA)[1:],
    ]
)
CHUNK: Final = 8192  # clips whose features are in memory at once, where these take no more than
CHUNK_BYTES: Final = 1 << 29
ROWS: Final = 2**19  # of a table of predictions

Failed = Callable[[ClipError], None]
Log = Callable[[str], None]


def predict(
    bundle: Bundle,
    clip_ids: Sequence[str],
    store: FeatureStore,
    log: Log = print,
    recordings: Sequence[str] | None = None,
) -> pa.Table:
    """Return the tables of `predict_stream` as one."""
    return pa.concat_tables(predict_stream(bundle, clip_ids, store, log, recordings))


def predict_stream(
    bundle: Bundle,
    clip_ids: Sequence[str],
    store: FeatureStore,
    log: Log = print,
    recordings: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Yield calibrated probabilities of every class for every clip that has its features in the store.

    The store is read once, part by part, into a file on this machine's disk in the order of the clips; memory holds
    the ids and some thousand clips. Frames are read from the store a chunk of clips at a time.

    Args:
        bundle: trained.
        clip_ids: to predict, each once.
        store: feature store.
        log: receives a line for each thing left out.
        recordings: the recording of each clip, for bundles whose `windows` name the level `recording`.

    Returns:
        `PREDICTION_SCHEMA`, clips in the order given, classes in the bundle's. Clips that lack a block are left out and
        logged. For bundles of level `recording`, the column `group` instead of `clip_id`, in the order of the names;
        for those of level `window` a row a window, with `start_s` and `end_s` in the clip after `clip_id`.

    Raises:
        UsageError: the store's features are not those trained on, no clip has them, or a bundle of recordings is asked
            for clips.
    """
    from acoustic_env.models.learn import stored_matrix  # not needed, and slow to import, for files

    by_recording = bundle.recipe.level == "recording"
    if by_recording and recordings is None:
        msg = "the bundle predicts recordings (`windows: level: recording`), not clips; train one with `level: clip`"
        raise UsageError(msg)
    rows = np.zeros(0, np.int64)
    if clip_ids:
        matrix = stored_matrix(bundle, clip_ids, store, spooled=True)
        for line in matrix.summary():
            log(f"without prediction: {line}")
        rows = np.flatnonzero(matrix.complete())
    if not len(rows):
        raise UsageError("no clip has all the features the bundle needs; extract them first")
    matrix = replace(matrix, absent={})
    names, owners = np.asarray(matrix.clip_ids, object)[rows], np.arange(len(rows))
    if by_recording:
        assert recordings is not None
        names, owners = np.unique(np.asarray(recordings, object)[rows], return_inverse=True)
        order = np.argsort(owners, kind="stable")
        rows, owners = rows[order], owners[order]
    together = max(1, min(CHUNK, CHUNK_BYTES // (4 * math.prod(matrix.values.shape[1:]))))
    for start, stop in _chunks(owners, together):
        raw, first = bundle.raw_proba(matrix.take(rows[start:stop]).held()), owners[start]
        if by_recording:
            raw = pool_recordings(bundle.recipe, raw, owners[start:stop] - first, bundle.exponent)
        yield from _tables(bundle, names[first : owners[stop - 1] + 1], bundle.calibrator.predict_proba(raw))


def _chunks(owners: npt.NDArray[np.int64], together: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of about so many rows each, between owners; those of an owner are side by side."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    edges = [*starts[np.unique(starts // together, return_index=True)[1]].tolist(), len(owners)]
    return itertools.pairwise(edges)


def _tables(bundle: Bundle, names: npt.NDArray[Any], calibrated: Floats) -> Iterator[pa.Table]:
    """Yield the rows of some clips or recordings in tables of at most `ROWS`, or of one clip."""
    classes, windows = len(bundle.classes), len(calibrated) // len(names)
    by_recording, by_window = bundle.recipe.level == "recording", bundle.recipe.level == "window"
    together = max(1, ROWS // (classes * windows))
    for start in range(0, len(names), together):
        own = names[start : start + together]
        posterior = calibrated[start * windows : (start + len(own)) * windows]
        columns = {
            "clip_id": pa.array(own, pa.string()).take(pa.array(np.repeat(np.arange(len(own)), classes * windows))),
            "label": pa.array(bundle.classes).take(pa.array(np.tile(np.arange(classes), len(posterior)))),
            "posterior": pa.array(posterior.ravel()),
        }
        table = pa.table(columns, schema=PREDICTION_SCHEMA)
        if by_window:
            times = _window_times(bundle, windows)
            for place, (name, of_clip) in enumerate(zip(("start_s", "end_s"), times, strict=True), start=1):
                column = pa.array(np.repeat(np.tile(of_clip, len(own)), classes))
                table = table.add_column(place, WINDOW_SCHEMA.field(name), column)
        yield table.rename_columns(["group", "label", "posterior"]) if by_recording else table


def _window_times(bundle: Bundle, count: int) -> tuple[Floats, Floats]:
    return window_times(bundle.recipe, next(iter(bundle.fingerprints)), count)


def predict_files(
    bundle: Bundle,
    files: Sequence[str],
    failed: Failed | None = None,
    *,
    windows: bool = False,
    decoder: Decode = decode,
) -> pa.Table:
    """Predict audio files, each as one clip, in this process.

    Args:
        bundle: trained.
        files: paths or URLs, each once.
        failed: receives the error of a file that cannot be used, which is left out; None to raise the first one.
        windows: predict each window of the files instead (`Predictor.predict_windows`).
        decoder: of files, as for `Predictor`.

    Returns:
        As `predict`, the clip id is the file as given; for windows, and for bundles of level `window`, `WINDOW_SCHEMA`.

    Raises:
        UsageError: a file twice, none could be used, or blocks that are not computed from audio.
        ClipError: a file cannot be used, without `failed`.
    """
    repeated = next((file for file, times in Counter(files).items() if times > 1), None)
    if repeated is not None:
        raise UsageError(f"{repeated}: given twice")
    predictor, rows, reasons = Predictor(bundle, decoder=decoder), list[dict[str, Any]](), list[str]()
    by_window = bundle.recipe.level == "window"
    for file in files:
        try:
            found = list(predictor.predict_windows(file)) if windows else [predictor.predict(file)]
        except Exception as error:  # one file of many; that blocks and network work, other files show
            of_file = error if isinstance(error, ClipError) else ClipError("compute_failed", f"{file}: {error!r}")
            if failed is None:
                raise of_file from error
            failed(of_file)
            reasons.append(str(of_file))
            continue
        if by_window:
            found = [window for one in found for window in _windows_of(bundle, one)]
        rows += [
            {**vars(one), "clip_id": file, "label": label, "posterior": value}
            for one in found
            for label, value in one.posterior.items()
        ]
    if not rows:
        raise UsageError(f"none of the {len(files):,} files could be used; the first: {reasons[0]}")
    table = pa.Table.from_pylist(rows, WINDOW_SCHEMA if windows or by_window else PREDICTION_SCHEMA)
    by_recording = bundle.recipe.level == "recording" and not windows
    return table.rename_columns(["group", "label", "posterior"]) if by_recording else table


def _windows_of(bundle: Bundle, clip: Prediction) -> list[Prediction]:
    """Return the windows of a clip that was predicted from its file."""
    starts, ends = _window_times(bundle, len(clip.raw))
    calibrated = bundle.calibrator.predict_proba(clip.raw).tolist()
    return [
        replace(
            clip,
            start_s=clip.start_s + start,
            end_s=clip.start_s + end,
            posterior=dict(zip(bundle.classes, own, strict=True)),
        )
        for start, end, own in zip(starts.tolist(), ends.tolist(), calibrated, strict=True)
    ]
