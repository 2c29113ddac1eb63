"""UrbanSound8K: 8,732 excerpts of up to 4 s of ten classes in ten folds (Salamon, Jacoby and Bello 2014)."""

from __future__ import annotations

import argparse
from typing import Final

import pyarrow as pa

from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.published import add_root, fold_of, published_clips, table_rows

FOLDS: Final = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
TABLE: Final = "metadata/UrbanSound8K.csv"


class UrbanSound8KReader:
    """Make a clip list of UrbanSound8K.

    Fold is the published one, group the Freesound recording an excerpt is cut from, label the class.
    """

    examples = "  acoustic-env clips from-urbansound8k UrbanSound8K/ --out clips.parquet\n"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_root(parser, f"{TABLE} and audio/fold1 to audio/fold10")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        rows = table_rows(arguments.folder, TABLE, ("slice_file_name", "fsID", "fold", "class_name"))
        clips = (
            {
                "clip_id": f"urbansound8k/{row['slice_file_name']}",
                "uri": f"audio/fold{row['fold']}/{row['slice_file_name']}",
                "labels": [row["class_name"]],
                "group": f"freesound/{row['fsID']}",
                "fold": int(row["fold"]),
                "source": "UrbanSound8K",
            }
            for row in rows
        )
        promised = {f"fold {number}": count for number, count in enumerate(FOLDS, start=1)}
        return published_clips(arguments.folder, clips, promised, fold_of, log, partial=arguments.partial)
