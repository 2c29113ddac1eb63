"""Predictions of a bundle as a table: a row per clip and class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.errors import UsageError
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import Log, bundle_matrix
from acoustic_env.store.feature_store import FeatureStore

PREDICTION_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("posterior", pa.float64(), nullable=False),  # calibrated probability, 0 to 1
    ]
)
# Clips whose features are in memory at once.
CHUNK: Final = 8192

Extract = Callable[[pa.Table, Bundle], FeatureStore]


def predict(bundle: Bundle, clip_ids: Sequence[str], store: FeatureStore, log: Log = print) -> pa.Table:
    """Return calibrated probabilities of every class for every clip that has its features in the store.

    Returns:
        `PREDICTION_SCHEMA`, clips in the order given, classes in the bundle's. Clips that lack a block are left out and
        logged.

    Raises:
        UsageError: the store's features are not those trained on, or no clip has them.
    """
    parts = list(_predicted(bundle, clip_ids, store, log))
    table = pa.concat_tables([PREDICTION_SCHEMA.empty_table(), *parts])
    if not table.num_rows:
        msg = "no clip has all the features the bundle needs; extract them first"
        raise UsageError(msg)
    return table


def _predicted(bundle: Bundle, clip_ids: Sequence[str], store: FeatureStore, log: Log) -> Iterator[pa.Table]:
    for start in range(0, len(clip_ids), CHUNK):
        matrix = bundle_matrix(bundle, clip_ids[start : start + CHUNK], store)
        complete = matrix.complete()
        for line in matrix.summary():
            log(f"without prediction: {line}")
        kept = matrix.take(complete)
        if not kept.clip_ids:
            continue
        posterior = bundle.predict_proba(kept)
        classes, clips = len(bundle.classes), len(kept.clip_ids)
        yield pa.table(
            {
                "clip_id": pa.array(kept.clip_ids).take(pa.array(np.repeat(np.arange(clips), classes))),
                "label": pa.array(bundle.classes).take(pa.array(np.tile(np.arange(classes), clips))),
                "posterior": pa.array(posterior.ravel()),
            },
            schema=PREDICTION_SCHEMA,
        )


def predict_files(bundle: Bundle, files: Sequence[str], extract: Extract, log: Log = print) -> pa.Table:
    """Predict audio files, whose features are computed first; the clip id is the file as given.

    Args:
        bundle: trained.
        files: paths or URLs, each once.
        extract: computes the bundle's blocks and signals for a clip list into a store and gives that store.
        log: receives a line for each thing left out.

    Raises:
        UsageError: a file twice, or none could be read.
    """
    repeated = sorted({file for file in files if files.count(file) > 1})
    if repeated:
        msg = f"{repeated[0]}: given twice"
        raise UsageError(msg)
    rows = [{"clip_id": file, "uri": file, "labels": [], "group": file, "source": "command line"} for file in files]
    return predict(bundle, list(files), extract(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA), bundle), log)
