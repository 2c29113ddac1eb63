"""A command that ends as soon as it has read a table ends as it should: Arrow's threads hold nothing of Python's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RUNS = 8  # without the copy in `for_arrow` most of them were aborted
CODE = """
import sys
from acoustic_env.clips.table import read_clips
read_clips(sys.argv[1])
"""


@pytest.mark.slow
def test_a_process_that_ends_right_after_reading_a_list_is_not_aborted(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({name: [f"{name} {i}" for i in range(60)] for name in ("clip_id", "uri")}), path)
    # One after the other: on a busy machine the threads are done before the process is.
    codes = [subprocess.call([sys.executable, "-c", CODE, str(path)]) for _ in range(RUNS)]
    assert codes == [0] * RUNS
