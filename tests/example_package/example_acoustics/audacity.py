"""Reader `audacity`: clip lists of recordings with Audacity label tracks."""

from __future__ import annotations

import argparse
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.clips.readers import Log


class AudacityReader:
    """Make a clip list of exported Audacity label tracks: one clip per label, one group per recording.

    The track of site-1.wav is site-1.txt: a line per label with start and end in s and the text, separated by tabs.

    Examples:
        acoustic-env clips from-audacity 'recordings/*.txt' --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the tracks."""
        parser.add_argument("tracks", nargs="+", metavar="TRACK.txt", help="Label tracks: paths, URLs or patterns.")
        parser.add_argument("--suffix", default=".wav", help="Suffix of the recordings. Default: .wav.")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        """Read the tracks."""
        from acoustic_env.clips.table import clip_table
        from acoustic_env.errors import UsageError
        from acoustic_env.io.files import expand, read_bytes

        rows = []
        for track in [url for pattern in arguments.tracks for url in expand(pattern)]:
            recording, before = track.removesuffix(".txt"), len(rows)
            name = PurePosixPath(recording).name
            for number, line in enumerate(read_bytes(track).decode().splitlines(), start=1):
                try:
                    start, end, label = line.split("\t")
                    times = {"start_s": float(start), "end_s": float(end)}
                except ValueError as error:
                    msg = f"{track}: line {number}: expected start, end and label between tabs, found {line!r}"
                    raise UsageError(msg) from error
                clip_id = f"{name}_{round(times['start_s'] * 1000)}"
                rows.append(
                    {"clip_id": clip_id, "uri": recording + arguments.suffix, "labels": [label], "group": name, **times}
                )
            if len(rows) == before:
                log(f"{track}: no labels")
        return clip_table(rows)
