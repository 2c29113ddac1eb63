"""The Python API for notebooks: what the commands do, in this process, with tables in and out.

Every name is importable from `acoustic_env` itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import open_audio
from acoustic_env.clips.table import read_clips
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, FeatureBlock, Json, Waveforms, table_schema, to_table
from acoustic_env.features.registry import make_block
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.predictor import Predictor
from acoustic_env.store.feature_store import FeatureStore

if TYPE_CHECKING:
    import pandas as pd

    from acoustic_env.models.bundle import Bundle

__all__ = [
    "Classifier",
    "Predictor",
    "Store",
    "compute",
    "estimate",
    "load_bundle",
    "open_store",
    "rank_labels",
    "read_clips",
    "train",
]

Blocks = Sequence[str] | Mapping[str, Mapping[str, Json]]


def compute(
    audio: str | Path | Waveforms,
    blocks: Blocks = ("indices",),
    signals: Sequence[str] = ("raw",),
    *,
    sample_rate: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    engine: Engine = "fast",
    device: str = "cpu",
) -> pd.DataFrame:
    """Compute feature blocks of one clip in this process: the numbers that `acoustic-env extract` stores.

    Args:
        audio: a file or URL in any form that a clip list takes, or a waveform [samples] or [samples, channels].
        blocks: names of blocks, or block -> options as in a recipe.
        signals: which signals of the clip.
        sample_rate: Hz; of a waveform only.
        start_s: start of the segment in s; None for the beginning.
        end_s: its end in s; None for the end.
        engine: "fast" or "reference".
        device: where networks run, "cpu" or "cuda".

    Returns:
        One row per signal, or per signal and frame for a per-frame block. Columns as in the feature store; with several
        blocks each is named `<block>.<column>`. An undefined number is NaN.

    Raises:
        UsageError: an unknown block, option or signal; `sample_rate` missing or too much; clip and frame blocks mixed.
        ClipError: the audio cannot be used.

    >>> import numpy as np
    >>> import acoustic_env
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    >>> table = acoustic_env.compute(tone, ["indices"], ["raw", "fg"], sample_rate=16_000)
    >>> table.shape
    (2, 61)
    >>> round(table["ZCR"][0])  # crossings of zero in a second
    880
    """
    options = blocks if isinstance(blocks, Mapping) else {name: {} for name in blocks}
    loaded = {name: _load(name, engine, json.dumps(own), device) for name, own in options.items()}
    rates = {block.sample_rate for block in loaded.values()}
    source, name = open_audio(audio, sample_rate)
    with source:
        waves = prepare.decode_and_resample(source, start_s, end_s, name, rates)
    prepared = {rate: prepare.prepare(wave[np.newaxis], rate, engine, signals) for rate, wave in waves.items()}
    tables, shared = list[pa.Table](), list[str]()
    for name, block in loaded.items():
        columns = block.compute(np.concatenate([prepared[block.sample_rate][signal] for signal in signals]))
        table = to_table(table_schema(block, {}), [""] * len(signals), signals, columns).drop_columns("clip_id")
        keys = [key for key in ("signal", "frame", "start_s") if key in table.column_names]
        if tables and (keys != shared or tables[0].select(keys) != table.select(keys)):
            raise UsageError(
                f"blocks {', '.join(loaded)}: {name} has other rows than {next(iter(loaded))}; compute them separately"
            )
        if len(loaded) > 1:
            table = table.rename_columns([key if key in keys else f"{name}.{key}" for key in table.column_names])
        tables.append(table)
        shared = keys
    arrays = {name: table[name] for table in tables for name in table.column_names}
    joined: pd.DataFrame = pa.table(arrays).to_pandas()
    return joined


@cache
def _load(name: str, engine: Engine, options: str, device: str) -> FeatureBlock:
    block = make_block(name, engine, json.loads(options))
    block.load(device)
    return block


class Store:
    """A feature store for reading, from `open_store`."""

    def __init__(self, url: str | Path) -> None:
        self._store = FeatureStore.existing(str(url))

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the blocks in the store.

        >>> from acoustic_env import open_store
        >>> open_store("features").blocks()
        ('indices', 'yamnet')
        """
        return tuple(self._store.blocks())

    def table(
        self,
        block: str,
        signal: str | None = None,
        columns: Sequence[str] | None = None,
        clip_ids: Sequence[str] | None = None,
    ) -> pa.Table:
        """Read rows of a block as an Arrow table, for pandas, Polars and DuckDB alike.

        Args:
            block: its name.
            signal: only this one; None for all.
            columns: besides the keys clip_id and signal; None for all.
            clip_ids: only these clips; None for all.

        Raises:
            UsageError: no such block or column, or several versions of the block.
            StoreError: the store cannot be read.

        >>> from acoustic_env import open_store
        >>> table = open_store("features").table("indices", signal="raw")
        >>> table.to_pandas().head(2)[["clip_id", "signal"]]
           clip_id signal
        0  clip000    raw
        1  clip001    raw
        """
        return self._store.read(block, signals=None if signal is None else [signal], columns=columns, clip_ids=clip_ids)

    def errors(self) -> pa.Table:
        """Read the recorded errors of clips.

        >>> from acoustic_env import open_store
        >>> open_store("features").errors().num_rows
        0
        """
        return self._store.errors()


def open_store(url: str | Path) -> Store:
    """Open a feature store for reading.

    Args:
        url: a folder, `s3://bucket/prefix`, or another fsspec URL.

    Raises:
        UsageError: there is nothing at the URL.

    >>> from acoustic_env import open_store
    >>> rows = open_store("features").table("indices", "raw")
    >>> import polars
    >>> polars.from_arrow(rows).select(polars.col("f0").is_null().sum()).item()
    0
    >>> import duckdb
    >>> duckdb.sql("select count(*) from rows").fetchall()
    [(300,)]
    """
    return Store(url)


def estimate(sample: str | Path, annotations: str | Path, clips: str | Path | None = None) -> dict[str, Any]:
    """Estimate label accuracy from an annotated sample, as `acoustic-env audit estimate` does.

    Args:
        sample: file of `audit sample`.
        annotations: file of `audit listen`.
        clips: clip list; clips of one group then count as dependent.

    Returns:
        The result of `audit.estimate.estimate`: `preferred` names the estimator to quote, `overall` and `labels` hold
        an interval per estimator.

    Raises:
        UsageError: a file is missing or damaged, or no row of the sample has an answer.

    >>> from acoustic_env import estimate
    >>> found = estimate("sample.parquet", "annotations.parquet")
    >>> print(found["overall"][found["preferred"]])
    0.825 (0.779 to 0.863, n = 100, stratified)
    """
    from acoustic_env.audit.annotations import check_annotations
    from acoustic_env.audit.estimate import estimate as estimated
    from acoustic_env.audit.table import read_table

    groups = None
    if clips is not None:
        table = read_clips(str(clips))
        groups = dict(zip(table["clip_id"].to_pylist(), table["group"].to_pylist(), strict=True))
    answers = check_annotations(read_table(str(annotations)), str(annotations))
    return estimated(read_table(str(sample)), answers, str(sample), groups)


def rank_labels(
    clips: str | Path, store: str | Path, recipe: str | Path | Recipe, duplicates: str | Path | None = None
) -> pd.DataFrame:
    """Rank every label of a study by quality, lowest first, as `acoustic-env audit rank` does.

    It is a ranking, not an error rate: annotate a sample and `estimate` that.

    Args:
        clips: clip list.
        store: feature store.
        recipe: of the study: its name, file or `Recipe`.
        duplicates: table of `acoustic-env clips duplicates`.

    Returns:
        clip_id, label, given, quality (0 to 1, low = suspect), flagged, and a column per scorer.

    Raises:
        UsageError: an input is missing or wrong, or there are too few clips.

    >>> from acoustic_env import rank_labels
    >>> ranked = rank_labels("clips.parquet", "features", "study.yaml")
    >>> ranked.columns.tolist()
    ['clip_id', 'label', 'given', 'quality', 'flagged', 'logistic', 'neighbors']
    >>> suspects = ranked[ranked["given"] & ranked["flagged"]]
    >>> bool(suspects["quality"].is_monotonic_increasing)
    True
    """
    from acoustic_env.audit.rank import rank_study
    from acoustic_env.audit.table import read_table

    groups = None if duplicates is None else read_table(str(duplicates))
    ranked = rank_study(read_clips(str(clips)), FeatureStore.existing(str(store)), _recipe(recipe), duplicates=groups)
    table: pd.DataFrame = pa.concat_tables([part for part, _ in ranked]).to_pandas()
    return table


class Classifier:
    """A trained classifier with its preprocessing, from `train` or `load_bundle`."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes.

        >>> from acoustic_env import load_bundle
        >>> load_bundle("bundle").classes
        ('natural', 'urban')
        """
        return self.bundle.classes

    def predict(
        self, audio: str | Path | Sequence[str | Path] = (), *, clips: str | Path = "", store: str | Path = ""
    ) -> pd.DataFrame:
        """Predict calibrated probabilities of audio files, or of a clip list whose features are in a store.

        Args:
            audio: a file or several; their features are computed in this process.
            clips: instead of files, a clip list.
            store: the feature store of the list.

        Returns:
            clip_id (of a file its path), label, posterior: a row per clip and class.

        Raises:
            UsageError: neither or both given, a file twice, or features missing or of another version.
            ClipError: a file cannot be used.

        >>> from acoustic_env import load_bundle
        >>> table = load_bundle("bundle").predict(clips="clips.parquet", store="features")
        >>> table.shape
        (600, 3)
        """
        from acoustic_env.models.predict import predict, predict_files

        files = [str(audio)] if isinstance(audio, (str, Path)) else [str(file) for file in audio]
        if bool(files) == bool(clips) or bool(clips) != bool(store):
            raise UsageError("predict takes either audio files, or clips with store")
        if clips:
            listed = read_clips(str(clips))
            clip_ids, recordings = listed["clip_id"].to_pylist(), listed["group"].to_pylist()
            table = predict(self.bundle, clip_ids, FeatureStore.existing(str(store)), _quiet, recordings)
        else:
            table = predict_files(self.bundle, files)
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def save(self, folder: str | Path) -> None:
        """Write the bundle that `acoustic-env predict`, `evaluate` and `explain` take."""
        self.bundle.save(str(folder))


def train(clips: str | Path, store: str | Path, recipe: str | Path | Recipe, *, classifier: Any = None) -> Classifier:
    """Train a classifier in this process, as `acoustic-env train` does without `--workers`.

    Args:
        clips: clip list with labels.
        store: feature store with the recipe's blocks and signals.
        recipe: of the study: its name, file or `Recipe`.
        classifier: a scikit-learn classifier in place of the recipe's.

    Raises:
        UsageError: an input is missing or wrong.

    >>> from acoustic_env import train
    >>> classifier = train("clips.parquet", "features", "study.yaml")
    >>> classifier.classes
    ('natural', 'urban')
    >>> classifier.save("another-bundle")
    """
    from acoustic_env.models import learn

    study = learn.prepare(read_clips(str(clips)), FeatureStore.existing(str(store)), _recipe(recipe), log=_quiet)
    return Classifier(learn.train(study, _quiet, classifier=classifier)[0])


def load_bundle(folder: str | Path) -> Classifier:
    """Load a classifier that `train` or `acoustic-env train` has written.

    Raises:
        UsageError: no bundle, a damaged one, or one of an older version; says how to make it again.

    >>> from acoustic_env import load_bundle
    >>> load_bundle("bundle").classes
    ('natural', 'urban')
    """
    from acoustic_env.models.bundle import Bundle

    return Classifier(Bundle.load(str(folder)))


def _recipe(recipe: str | Path | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))


def _quiet(_: str) -> None:
    """Drop a line of the log."""
