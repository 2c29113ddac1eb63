"""AudioSet's released embeddings into the feature store, as the block `vggish_released`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.ontology import audioset
from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.audioset import read_audioset
from acoustic_env.clips.select import select
from acoustic_env.clips.table import CLASS_COLUMN
from acoustic_env.clips.tfrecord import read_embeddings
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.io.documents import load_recipe
from acoustic_env.io.location import url
from acoustic_env.store import sources
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
from acoustic_env.store.lease import BlockLeases, acquire_blocks, acquire_sources
from acoustic_env.store.schema import describe

ROWS_A_PART: Final = 1000  # a stream of shuffled clips holds dozens of parts
SHOWN: Final = 3


class EmbeddingsReader:
    r"""Make a clip list of AudioSet's released embeddings, and write them to a feature store.

    Reads the TFRecord files AudioSet releases (VGGish, one vector of 128 bytes a second) and writes the block
    vggish_released: the frames as they are, and their mean and standard deviation as the clip's vector.

    Examples:
        acoustic-env clips from-audioset-embeddings embeddings/bal_train --segments balanced_train_segments.csv \
            --recipe urban-nature-ontology --out train.parquet --store features/
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=url, metavar="DIR", help="Folder with the .tfrecord files.")
        parser.add_argument(
            "--segments", type=url, required=True, metavar="SEGMENTS.csv", help="The official list of these clips."
        )
        parser.add_argument("--store", type=url, required=True, metavar="URL", help="Feature store to write to.")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        recipe = load_recipe(arguments.recipe) if arguments.recipe else None
        return import_released(arguments.folder, arguments.segments, recipe, arguments.store, log)


def import_released(folder: str, segments: str, recipe: Recipe | None, store_url: str, log: Log) -> pa.Table:
    """Write the released embeddings of a segment list's clips to a store.

    Rows that are there already are not written again, so an interrupted import resumes where it was.

    Args:
        folder: with the .tfrecord files of the list.
        segments: the official segment list; its labels are the clips'.
        recipe: only the clips of this study; None for all.
        store_url: the feature store.
        log: is told how many rows were written, which clips have no record, and which have other labels in it.

    Returns:
        The clip list: those wanted that have a record.

    Raises:
        UsageError: a file is missing or damaged, no clip of the list has a record, or an id has rows of other audio.
        LeaseHeld: another writer holds the block.
    """
    clips = read_audioset(segments)
    if recipe is not None:
        clips = select(clips, recipe).clips.drop_columns(CLASS_COLUMN)
    labels = dict(zip(clips["clip_id"].to_pylist(), clips["labels"].to_pylist(), strict=True))
    holder = f"clips from-audioset-embeddings {folder}"
    with acquire_blocks(store_url, [vggish_released.NAME], holder) as leases:
        store = FeatureStore(store_url)
        with acquire_sources(store_url, holder) as lease:
            admission = sources.admit(store, Listed([clips], segments), listed_in=segments, beside=leases.others)
            sources.record(store, admission, None, lease.check)
        found = _copy(folder, labels, store, leases)
    missing = [clip_id for clip_id in labels if clip_id not in found.clip_ids]
    if len(missing) == len(labels):
        msg = f"{folder}: no record of any of the {len(labels):,} clips of {segments}; is it the folder of that list?"
        raise UsageError(msg)
    there = len(found.clip_ids) - found.written
    log(f"{store_url}: block {vggish_released.NAME}, {found.written:,} rows written, {there:,} were there")
    for clip_ids, what in (
        (missing, f"have no record in {folder} and are left out"),
        (found.other_labels, "have other labels in their record; the segment list's count"),
    ):
        if clip_ids:
            shown = f"{', '.join(clip_ids[:SHOWN])}{', ...' if len(clip_ids) > SHOWN else ''}"
            log(f"{len(clip_ids):,} clips {what} ({shown})")
    return clips.filter(pc.invert(pc.is_in(clips["clip_id"], value_set=pa.array(missing, pa.string()))))


@dataclass
class _Found:
    clip_ids: set[str] = field(default_factory=set)
    other_labels: list[str] = field(default_factory=list)
    written: int = 0


def _copy(folder: str, labels: dict[str, list[str]], store: FeatureStore, leases: BlockLeases) -> _Found:
    """Records of the wanted clips into the store, those that are not there."""
    described = describe(vggish_released.schema().metadata)
    assert described is not None
    done = set(store.committed_keys(described.block, described.fingerprint)["clip_id"].to_pylist())
    token = leases.tokens[lease_path(described.block)]
    store.begin(described.block, described.fingerprint, token)
    found = _Found()
    pending: dict[str, npt.NDArray[np.uint8]] = {}
    for record in read_embeddings(folder, audioset()):
        clip_id = record.segment.clip_id
        if clip_id not in labels or clip_id in found.clip_ids:
            continue
        found.clip_ids.add(clip_id)
        if set(record.segment.labels) != set(labels[clip_id]):
            found.other_labels.append(clip_id)
        if clip_id not in done:
            pending[clip_id] = record.frames
        if len(pending) == ROWS_A_PART:
            found.written += _write(store, pending, leases, token)
            pending = {}
    found.written += _write(store, pending, leases, token)
    return found


def _write(store: FeatureStore, pending: dict[str, npt.NDArray[np.uint8]], leases: BlockLeases, token: int) -> int:
    if pending:
        leases.check()
        store.write_part(vggish_released.rows(list(pending), list(pending.values())), token)
    return len(pending)
