"""Clips are fetched ahead and decoded one by one, whatever the list says of their lengths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.audio import prepare
from acoustic_env.pipeline import reading
from acoustic_env.pipeline.reading import decode_clips
from acoustic_env.pipeline.task import WORK_SCHEMA
from tests.pipeline.tasks import noise, works


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been decoded so far."""
    names: list[str] = []
    decode = prepare.decode_and_resample

    def counted(source: Any, start_s: Any, end_s: Any, name: str, rates: Any) -> Any:
        names.append(name)
        return decode(source, start_s, end_s, name, rates)

    monkeypatch.setattr(prepare, "decode_and_resample", counted)
    return names


def row_group(folder: Path, clips: int) -> pa.Table:
    """Pending rows of clips whose bytes one row group of a Parquet file holds."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000, format="WAV")
    pq.write_table(pa.table({"audio": [file.getvalue()] * clips}), folder / "shard.parquet")
    place = {"byte_offset": 4, "byte_size": 1000, "need": 1, "attempt": 1}
    rows = [{"clip_id": f"c{i}", "uri": f"parquet://audio/{i}::{folder}/shard.parquet"} | place for i in range(clips)]
    return pa.Table.from_pylist(rows, WORK_SCHEMA)


def test_what_is_fetched_ahead_is_not_decoded_ahead(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "any_remote", lambda _: True)
    clips = noise(tmp_path, {f"c{i}": 16_000 for i in range(12)}, works("placeholder"))
    for number, clip in enumerate(decode_clips(clips, [16_000]), start=1):
        assert clip.error is None
        assert len(decoded) == number


def test_clips_of_one_row_group_are_decoded_one_by_one(tmp_path: Path, decoded: list[str]) -> None:
    for number, clip in enumerate(decode_clips(row_group(tmp_path, 5), [16_000]), start=1):
        assert clip.error is None
        assert len(decoded) == number


def test_a_recording_too_long_for_the_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, decoded: list[str]
) -> None:
    clips = noise(tmp_path, {"long": 40 * 16_000, "short": 16_000}, works("placeholder"))
    errors = [clip.error and clip.error.code for clip in decode_clips(clips, [16_000], longest_s=30.0)]
    assert errors == ["out_of_memory", None]
    assert [Path(name).stem for name in decoded] == ["short"]


@pytest.mark.parametrize("seconds", [0.0, 1e12])
def test_a_list_that_is_wrong_about_a_length_costs_no_clip(tmp_path: Path, seconds: float) -> None:
    clips = noise(tmp_path, {"a": 16_000}, works("placeholder"))
    clips = clips.set_column(clips.schema.get_field_index("seconds"), "seconds", pa.array([seconds]))
    (clip,) = decode_clips(clips, [16_000], longest_s=30.0)
    assert clip.error is None
