"""ESC-50 and its subset ESC-10: clips of 5 s, 40 a class, in five folds (Piczak 2015)."""

from __future__ import annotations

import argparse
from typing import Final

import pyarrow as pa

from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.published import add_root, fold_of, published_clips, table_rows

TABLE: Final = "meta/esc50.csv"
FOLDS: Final = 5


class ESC50Reader:
    """Make a clip list of ESC-50, or of its ten classes ESC-10.

    Fold is the published one, group the Freesound recording a clip is cut from, label the category.
    """

    examples = """\
  acoustic-env clips from-esc50 ESC-50-master/ --out clips.parquet
  acoustic-env clips from-esc50 ESC-50-master/ --esc10 --out clips.parquet
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_root(parser, f"{TABLE} and audio/")
        parser.add_argument("--esc10", action="store_true", help="Only the ten classes of ESC-10.")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        rows = table_rows(arguments.folder, TABLE, ("filename", "fold", "category", "esc10", "src_file"))
        clips = (
            {
                "clip_id": f"esc50/{row['filename']}",
                "uri": f"audio/{row['filename']}",
                "labels": [row["category"]],
                "group": f"freesound/{row['src_file']}",
                "fold": int(row["fold"]),
                "source": "ESC-50",
            }
            for row in rows
            if not arguments.esc10 or row["esc10"] == "True"
        )
        promised = {f"fold {number}": 80 if arguments.esc10 else 400 for number in range(1, FOLDS + 1)}
        return published_clips(arguments.folder, clips, promised, fold_of, log, partial=arguments.partial)
