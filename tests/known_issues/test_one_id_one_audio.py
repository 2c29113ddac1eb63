"""Rows were keyed by clip_id alone, and ids did not say which audio: clips silently got the numbers of other clips.

`clips from-folder rec --window 10`, extract, then `--window 5` into the same store: 3 of 6 five-second clips carried
the ten-second numbers, and `store verify` said all is well. Two Hugging Face sets both gave `train-00000-of-00001/5`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import AcousticEnvError
from acoustic_env.store.feature_store import FeatureStore
from tests.store.tables import fake_table

Captured = pytest.CaptureFixture[str]
RATE = 16_000


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder `rec` with one recording of 30 s, whose seconds all differ."""
    (tmp_path / "rec").mkdir()
    noise = np.random.default_rng(23).normal(0, 0.1, 30 * RATE) * np.repeat(np.linspace(0.1, 1, 30), RATE)
    soundfile.write(tmp_path / "rec" / "a.wav", noise, RATE)
    return tmp_path / "rec"


def make_list(path: Path, *rows: tuple[str, str, float | None, float | None]) -> str:
    names = ("clip_id", "uri", "start_s", "end_s")
    write_clips(clip_table([dict(zip(names, row, strict=True)) for row in rows]), str(path))
    return str(path)


def old_list(path: Path, recording: Path, window_s: float) -> str:
    """The list that `from-folder --window` made before: ids of name and start only."""
    starts = np.arange(0, 30, window_s)
    rows = [(f"a.wav_{start * 1000:.0f}", str(recording), float(start), float(start + window_s)) for start in starts]
    return make_list(path, *rows)


def extract(clips: str, store: Path | str, *more: str) -> int:
    options = ["--blocks", "placeholder", "--signals", "raw", *more]
    return main(["extract", "--clips", clips, "--store", str(store), *options])


def dry_run(clips: str, store: Path | str, *more: str) -> int:
    return extract(clips, store, "--dry-run", *more)


def rows(store: Path | str) -> dict[str, list[float]]:
    table = FeatureStore(str(store)).read("placeholder")
    first = next(name for name in table.column_names if name not in ("clip_id", "signal"))
    return dict(zip(table["clip_id"].to_pylist(), table[first].to_pylist(), strict=True))


# ---- ids of the readers


def test_windows_of_two_lengths_have_two_sets_of_ids(recordings: Path, tmp_path: Path) -> None:
    ids = {}
    for window in ("10", "5"):
        out = str(tmp_path / f"{window}.parquet")
        assert main(["clips", "from-folder", str(recordings), "--window", window, "--out", out]) == 0
        ids[window] = read_clips(out)["clip_id"].to_pylist()
    assert ids["10"] == ["rec/a.wav_0-10000", "rec/a.wav_10000-20000", "rec/a.wav_20000-30000"]
    assert not set(ids["10"]) & set(ids["5"])


def test_two_sets_with_the_same_shard_names_have_two_sets_of_ids(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.table({"audio": pa.array([{"bytes": b"x", "path": "x.wav"}] * 2, kind)})
    ids = {}
    for name in ("setA", "setB"):
        file = tmp_path / name / "data" / "train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(audio, file)
        assert main(["clips", "from-parquet", str(file), "--out", str(tmp_path / f"{name}.csv")]) == 0
        ids[name] = read_clips(str(tmp_path / f"{name}.csv"))["clip_id"].to_pylist()
    assert ids["setA"] == ["setA/data/train-00000-of-00001/0", "setA/data/train-00000-of-00001/1"]
    assert not set(ids["setA"]) & set(ids["setB"])


def test_the_same_set_has_the_same_ids_wherever_it_is(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings, tmp_path / "elsewhere" / "deep" / "rec")
    with fsspec.open("memory://bucket/rec/a.wav", "wb") as file:
        file.write((recordings / "a.wav").read_bytes())
    found = []
    for folder in (str(recordings), str(tmp_path / "elsewhere" / "deep" / "rec") + "/", "memory://bucket/rec"):
        assert main(["clips", "from-folder", folder, "--window", "15", "--out", str(tmp_path / "c.parquet")]) == 0
        found.append(read_clips(str(tmp_path / "c.parquet"))["clip_id"].to_pylist())
    assert found[0] == found[1] == found[2]


# ---- the store


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_windows_of_two_lengths_in_one_store_have_their_own_numbers(recordings: Path, tmp_path: Path) -> None:
    lists = {}
    for window in ("10", "5"):
        lists[window] = str(tmp_path / f"{window}.parquet")
        assert main(["clips", "from-folder", str(recordings), "--window", window, "--out", lists[window]]) == 0
    assert extract(lists["10"], tmp_path / "both") == 0
    assert extract(lists["5"], tmp_path / "both") == 0
    assert extract(lists["5"], tmp_path / "alone") == 0
    both, alone = rows(tmp_path / "both"), rows(tmp_path / "alone")
    assert len(both) == 9
    assert {clip_id: both[clip_id] for clip_id in alone} == alone
    assert main(["store", "verify", str(tmp_path / "both"), "--clips", lists["5"]]) == 0


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_id_with_another_segment_or_file_is_refused_before_anything_runs(
    recordings: Path, tmp_path: Path, capsys: Captured
) -> None:
    recording = recordings / "a.wav"
    ten, five = old_list(tmp_path / "10.csv", recording, 10), old_list(tmp_path / "5.csv", recording, 5)
    store = tmp_path / "store"
    assert extract(ten, store) == 0
    before = sorted(path for path in store.rglob("*.parquet"))
    for run in (dry_run, extract):
        capsys.readouterr()
        assert run(five, store) == 2
        said = capsys.readouterr().err
        assert "3 clips" in said
        assert f"a.wav_0: rows of {recording} (0 to 10 s), the list has {recording} (0 to 5 s)" in said
        assert "cluster" not in said
        assert "Traceback" not in said
    assert sorted(path for path in store.rglob("*.parquet")) == before

    other = recordings / "b.wav"
    shutil.copy(recording, other)
    assert dry_run(make_list(tmp_path / "b.csv", ("a.wav_0", str(other), 0.0, 10.0)), store) == 2
    assert f"--relocated {recording}={other}" in capsys.readouterr().err

    capsys.readouterr()
    assert main(["store", "verify", str(store), "--clips", five]) == 5
    said = capsys.readouterr()
    assert all(f"a.wav_{start}" in said.out for start in (0, 10000, 20000))
    assert main(["store", "verify", str(store), "--clips", five, "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert [row["clip_id"] for row in document["other_sources"]] == ["a.wav_0", "a.wav_10000", "a.wav_20000"]
    assert main(["store", "verify", str(store), "--clips", ten]) == 0


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_audio_that_moved_is_accepted_when_said_and_recorded_in_the_run(
    recordings: Path, tmp_path: Path, capsys: Captured
) -> None:
    store, moved = tmp_path / "store", tmp_path / "moved"
    here = old_list(tmp_path / "here.csv", recordings / "a.wav", 10)
    assert extract(here, store, "--limit", "2") == 0
    recordings.rename(moved)
    there = old_list(tmp_path / "there.csv", moved / "a.wav", 10)
    assert extract(there, store) == 2
    assert f"--relocated {recordings}={moved}" in capsys.readouterr().err
    relocated = ("--relocated", f"{recordings}/={moved}")
    assert dry_run(there, store, *relocated) == 0
    assert dry_run(there, store) == 2, "a dry run must change nothing"
    capsys.readouterr()
    assert extract(there, store, "--json", *relocated) == 0
    captured = capsys.readouterr()
    assert "2 clips" in captured.err
    record = json.loads(captured.out)
    assert record["relocated"] == [{"old": str(recordings), "new": str(moved), "clips": 2}]
    kept = json.loads((store / "runs" / record["run_id"] / "record.json").read_text())
    assert kept["relocated"] == record["relocated"]
    assert len(rows(store)) == 3
    assert dry_run(there, store) == 0, "the new place is the current one"
    assert dry_run(there, store, *relocated) == 0, "the same command again"
    assert dry_run(here, store) == 2
    assert main(["store", "verify", str(store), "--clips", there]) == 0


def test_a_relocation_of_a_finished_list_is_recorded_though_nothing_is_computed(tmp_path: Path) -> None:
    store = finished_store(tmp_path, ("x", "/old/x.wav", None, None))
    there = make_list(tmp_path / "there.csv", ("x", "/new/x.wav", None, None))
    assert main(["extract", "--clips", there, "--store", str(store), "--blocks", "placeholder", "--signals", "raw",
                 "--relocated", "/old=/new"]) == 0  # fmt: skip
    (record,) = [run for run in FeatureStore(str(store)).runs() if run.get("relocated")]
    assert record["relocated"] == [{"old": "/old", "new": "/new", "clips": 1}]


def finished_store(tmp_path: Path, *clips: tuple[str, str, float | None, float | None]) -> Path:
    """A store with rows and sources of clips whose audio need not exist."""
    from acoustic_env.clips.listed import Listed
    from acoustic_env.options import ExtractSettings
    from acoustic_env.pipeline.work import resolve_blocks
    from acoustic_env.store.sources import admit, record

    listed = make_list(tmp_path / "finished.csv", *clips)
    store = tmp_path / "store"
    (work,) = resolve_blocks(ExtractSettings(clips=listed, store=str(store), blocks=("placeholder",), signals=("raw",)))
    opened = FeatureStore(str(store))
    record(opened, admit(opened, Listed([read_clips(listed)])), "run-0")
    opened.write_part(empty_rows(work.schema, [clip[0] for clip in clips]))
    return store


def empty_rows(schema: pa.Schema, ids: list[str]) -> pa.Table:
    """Rows with a zero in every column."""

    def column(field: pa.Field) -> pa.Array:
        if pa.types.is_fixed_size_list(field.type):
            return pa.array([[0] * field.type.list_size] * len(ids), field.type)
        return pa.array([0] * len(ids), field.type)

    keys: dict[str, Any] = {"clip_id": ids, "signal": ["raw"] * len(ids)}
    return pa.table({field.name: keys.get(field.name) or column(field) for field in schema}, schema=schema)


def test_readers_of_a_store_refuse_rows_of_other_segments_and_name_other_places(
    tmp_path: Path, capsys: Captured
) -> None:
    store = finished_store(tmp_path, ("x", "/old/x.wav", 0.0, 10.0))
    other = make_list(tmp_path / "other.csv", ("x", "/old/x.wav", 0.0, 5.0))
    moved = make_list(tmp_path / "moved.csv", ("x", "/new/x.wav", 0.0, 10.0))
    rank = ["audit", "rank", "--recipe", "scenes", "--out", str(tmp_path / "ranked.parquet"), "--store", str(store)]
    for command in (rank, ["train", "--recipe", "scenes", "--out", str(tmp_path / "bundle"), "--store", str(store)]):
        assert main([*command, "--clips", other]) == 2
        assert "rows of other segments, such as x: rows of /old/x.wav (0 to 10 s)" in capsys.readouterr().err
        main([*command, "--clips", moved])
        assert "1 clips are in another place than their rows were computed from" in capsys.readouterr().err


# ---- stores written before


def old_store(tmp_path: Path, ids: list[str]) -> Path:
    """A store that has lost its table of sources: rows of the ids."""
    FeatureStore(str(tmp_path / "old")).write_part(fake_table(ids))
    return tmp_path / "old"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ids_with_rows_and_no_source_are_adopted_from_the_list_once(
    recordings: Path, tmp_path: Path, capsys: Captured
) -> None:
    recording = recordings / "a.wav"
    ten, five = old_list(tmp_path / "10.csv", recording, 10), old_list(tmp_path / "5.csv", recording, 5)
    store = old_store(tmp_path, ["a.wav_0", "a.wav_10000", "never listed"])
    assert extract(ten, store) == 0
    said = capsys.readouterr().err
    assert "2 clips have rows but no recorded source" in said
    assert extract(ten, store) == 0
    assert "no recorded source" not in capsys.readouterr().err
    assert dry_run(five, store) == 2
    assert main(["store", "verify", str(store), "--clips", ten]) == 0
    assert "1 clips have rows but no recorded source" in capsys.readouterr().out


# ---- between lists


def test_check_finds_one_id_with_two_sources_between_lists(recordings: Path, tmp_path: Path, capsys: Captured) -> None:
    recording = recordings / "a.wav"
    ten, five = old_list(tmp_path / "10.csv", recording, 10), old_list(tmp_path / "5.csv", recording, 5)
    assert main(["clips", "check", ten, ten]) == 0
    assert main(["clips", "check", ten, five]) == 2
    said = capsys.readouterr().err
    assert f"{five}: row 3, column clip_id: 'a.wav_10000' is {recording} (10 to 15 s)" in said
    assert f"in {ten}, row 2, {recording} (10 to 20 s)" in said


def test_the_command_to_resume_names_every_relocation(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def stop(*_: object, **__: object) -> None:
        raise AcousticEnvError("the disk is full")

    monkeypatch.setattr("acoustic_env.pipeline.extract.extract", stop)
    given = ["--clips", "s3://b/c.csv", "--store", "s", "--relocated", "/a b=/c", "--relocated", "s3://x=s3://y"]
    assert main(["extract", *given]) == 2
    resume = "acoustic-env extract --clips s3://b/c.csv --store s --relocated '/a b=/c' --relocated s3://x=s3://y"
    assert f"To resume: {resume}" in capsys.readouterr().err
