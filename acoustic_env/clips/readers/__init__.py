"""Readers of clip lists: each turns data as others keep them into a clip list; `acoustic-env clips from-NAME` runs one.

A reader is one file with one class, registered under its name in commands/clips.py or by another package:

    [project.entry-points."acoustic_env.readers"]
    xeno-canto = "my_package.xeno_canto:XenoCantoReader"

It is imported when its command is used, and not before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Log = Callable[[str], None]


class Reader(Protocol):
    """What a class needs to be a reader; its docstring is the command's description and examples.

    class XenoCantoReader:
        '''Make a clip list of a Xeno-canto download.

        Examples:
            acoustic-env clips from-xeno-canto download/ --out clips.parquet
        '''

        def add_arguments(self, parser):
            parser.add_argument("folder", help="Folder of the download.")

        def read(self, arguments, log):
            return clip_table({"clip_id": ..., "uri": ..., "labels": [...]} for ... in ...)
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the reader's own options; `--out`, `--recipe` and `--json` are every reader's."""

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        """Return the clips, a table of `clips.table.CLIP_SCHEMA`; the recipe is applied afterwards.

        Args:
            arguments: the options of `add_arguments`, and `recipe` (a name, a URL or None).
            log: takes notes on what was left out or could not be read.

        Raises:
            UsageError: the data cannot be read; names file, row, column or option.
        """
