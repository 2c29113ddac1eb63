"""A table of tab-separated values, a clip a row: the name of its audio file and its labels, joined by commas."""

from __future__ import annotations

import argparse

import pyarrow as pa

from acoustic_env.clips.naming import root_name
from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.published import published_clips, subset_of, table_rows
from acoustic_env.clips.table import further_name
from acoustic_env.io.location import split, url


class TSVReader:
    """Make a clip list of a TSV file with a column of audio file names and one of comma-joined labels.

    A clip has exactly the labels of its cell: "Musical instrument" is not "Music". Further columns are carried along.
    """

    examples = "  acoustic-env clips from-tsv dataset.tsv --audio data/audio --out clips.parquet\n"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=url, metavar="FILE.tsv", help="Table with a header.")
        parser.add_argument("--audio", type=url, required=True, metavar="DIR", help="Folder of the audio files.")
        parser.add_argument("--suffix", default=".wav", help="Added to a name to make its file (default: .wav).")
        parser.add_argument("--audio-column", default="audio", metavar="NAME", help="File names (default: audio).")
        parser.add_argument("--label-column", default="labels", metavar="NAME", help="Labels (default: labels).")
        group = "Column of what must not be split (default: every row is a group)."
        parser.add_argument("--group-column", metavar="NAME", help=group)
        parser.add_argument("--name", help="Start of the clip ids (default: the audio folder's own name).")
        partial = "Leave out rows without an audio file. Default: exit 2."
        parser.add_argument("--partial", action="store_true", help=partial)

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        folder, name = split(arguments.file)
        group = arguments.group_column
        columns = (arguments.audio_column, arguments.label_column, *((group,) if group else ()))
        root = root_name(arguments.audio, arguments.name)
        rows = []
        for row in table_rows(folder, name, columns, "\t"):
            clip_id = f"{root}/{row[arguments.audio_column]}"
            labels = [label.strip() for label in row[arguments.label_column].split(",") if label.strip()]
            uri = row[arguments.audio_column] + arguments.suffix
            own = row[group] if group else clip_id
            further = {further_name(column): cell or None for column, cell in row.items() if column not in columns}
            rows.append({"clip_id": clip_id, "uri": uri, "labels": labels, "group": own, "source": name, **further})
        return published_clips(arguments.audio, rows, {}, subset_of, log, partial=arguments.partial)
