"""FSDKaggle2019: 80 classes, a curated and a noisy training part and a test part (Fonseca et al. 2019)."""

from __future__ import annotations

import argparse
from typing import Any, Final

import pyarrow as pa

from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.published import add_root, chosen_parts, published_clips, subset_of, table_rows

# Part -> its clips, its fold, its table and audio below FSDKaggle2019., and the column that names the recording.
PARTS: Final = {
    "curated": (4_970, 0, "train_curated_post_competition.csv", "audio_train_curated", "freesound_id"),
    "noisy": (19_815, 1, "train_noisy_post_competition.csv", "audio_train_noisy", "flickr_video_URL"),
    "test": (4_481, 2, "test_post_competition.csv", "audio_test", "freesound_id"),
}


class FSDKaggle2019Reader:
    """Make a clip list of FSDKaggle2019.

    Fold is 0 for the curated, 1 for the noisy training part, 2 for the test part; group is the Freesound recording or
    the Flickr video.
    """

    examples = "  acoustic-env clips from-fsdkaggle2019 FSDKaggle2019/ --parts curated,test --out clips.parquet\n"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "FSDKaggle2019.meta/ and FSDKaggle2019.audio_*/")
        parser.add_argument("--parts", default="curated,noisy,test", help="Parts (default: curated,noisy,test).")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        names = chosen_parts(arguments.parts, PARTS)
        rows: list[dict[str, Any]] = []
        for name in names:
            _, fold, table, audio, recording = PARTS[name]
            of = table_rows(arguments.folder, f"FSDKaggle2019.meta/{table}", ("fname", "labels", recording))
            rows += [
                {
                    "clip_id": f"fsdkaggle2019/{row['fname'].removesuffix('.wav')}",
                    "uri": f"FSDKaggle2019.{audio}/{row['fname']}",
                    "labels": row["labels"].split(","),
                    "group": row[recording],
                    "fold": fold,
                    "source": f"FSDKaggle2019 {name}",
                }
                for row in of
            ]
        promised = {name: PARTS[name][0] for name in names}
        return published_clips(arguments.folder, rows, promised, subset_of, log, partial=arguments.partial)
