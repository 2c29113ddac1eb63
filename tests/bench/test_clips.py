"""The clip list of the benchmark's job: windows spread over recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.bench.clips import Material, bench_clips
from acoustic_env.cli import main
from acoustic_env.errors import UsageError


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.floats(2.0, 9.0), min_size=1, max_size=5), count=st.integers(1, 60))
def test_windows_lie_within_their_recordings_and_a_long_one_has_more_of_them(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[float], count: int
) -> None:
    folder = tmp_path_factory.mktemp("audio")
    paths = []
    for i, length in enumerate(lengths):
        paths.append(folder / f"{i}.wav")
        soundfile.write(paths[-1], np.zeros(round(length * 1_000)), 1_000)
    table = Material(tuple(paths), "test", 2.0).clip_list(count)
    assert table.num_rows == count == len(set(table["clip_id"].to_pylist()))
    windows = np.zeros(len(lengths))
    for row in table.to_pylist():
        which = paths.index(Path(row["uri"]))
        windows[which] += 1
        assert 0 <= row["start_s"] <= row["end_s"] - 2.0 + 1e-9
        assert row["end_s"] <= soundfile.info(str(paths[which])).duration + 1e-9
    share = (np.array(lengths) - 1.0) / sum(length - 1.0 for length in lengths)
    np.testing.assert_allclose(windows, count * share, atol=1.1)


def test_real_recordings_are_used_where_they_are_and_a_wrong_folder_is_named(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench_clips(3) as material:
        assert material.source == f"real clips of {test_data}"
        assert material.clip_list(240).num_rows == 240
    monkeypatch.setenv("ACOUSTIC_ENV_TEST_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path}: no recordings"), bench_clips(3):
        pass


def test_a_damaged_recording_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clips" / "blanket" / "broken.ogg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no recording" * 100)
    monkeypatch.setenv("ACOUSTIC_ENV_TEST_DATA", str(tmp_path))
    assert main(["bench", "--stages", "dsp"]) == 2
    assert f"{path}: not a readable recording" in capsys.readouterr().err
    with bench_clips(1) as material, pytest.raises(UsageError, match="not a readable recording"):
        material.clip_list(3)
