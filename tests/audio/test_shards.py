"""Clips in shards whose list says where their bytes are: few requests, few bytes, and never other audio."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from acoustic_env.audio.fetch import open_source
from acoustic_env.audio.shards import Place, fetch_together, neighbors
from acoustic_env.clips.readers.parquet import read_parquet
from acoustic_env.clips.readers.tar import read_tar
from acoustic_env.clips.table import absolute_uris, read_clips, write_clips
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.pipeline.pending import cut_tasks
from acoustic_env.pipeline.reading import decode_clips
from acoustic_env.pipeline.task import unpack
from tests.pipeline.tasks import pending
from tests.s3 import S3Server

LONG = "a folder of some length/" * 6 + "größe.wav"


def wav(seed: int, samples: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).normal(0, 0.1, samples), 16_000, format="WAV")
    return file.getvalue()


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def places(clips: pa.Table) -> list[Place]:
    columns = (clips[name].to_pylist() for name in ("uri", "byte_offset", "byte_size"))
    return [Place(uri, offset, offset + size) for uri, offset, size in zip(*columns, strict=True)]


def test_members_are_found_at_the_places_that_the_list_names(tmp_path: Path) -> None:
    members = {"0001.wav": wav(1), "0001.json": b"{}", LONG: wav(2), "0003.wav": wav(3)}
    clips = read_tar([str(make_tar(tmp_path / "s.tar", members))])
    assert fetch_together(places(clips)) == [members[name] for name in ("0001.wav", LONG, "0003.wav")]


def test_a_shard_made_again_gives_the_named_member_and_no_other(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {"1.wav": wav(1), "2.wav": wav(2), "3.wav": wav(3)})
    listed = places(read_tar([str(shard)]))
    make_tar(shard, {"2.wav": wav(2), "1.wav": wav(11, 40_000)})
    one, two, three = fetch_together(listed)
    assert (one, two) == (wav(11, 40_000), wav(2))
    assert isinstance(three, ClipError)
    assert three.code == "not_found"


def test_a_shard_cut_short_costs_only_the_clips_behind_the_cut(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {"1.wav": wav(1), "2.wav": wav(2)})
    listed = places(read_tar([str(shard)]))
    shard.write_bytes(shard.read_bytes()[: listed[1].start + 5000])
    one, two = fetch_together(listed)
    assert one == wav(1)
    assert isinstance(two, ClipError)
    shard.unlink()
    assert [error.code for error in fetch_together(listed) if isinstance(error, ClipError)] == ["not_found"] * 2


def test_a_damaged_header_costs_its_own_clip_alone(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {f"{i}.wav": wav(i) for i in range(3)})
    clips = read_tar([str(shard)])
    listed = places(clips)
    with tarfile.open(tmp_path / "damaged.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("1.wav")
        info.pax_headers = {"GNU.sparse.size": "abc"}
        archive.addfile(info)
    data = bytearray(shard.read_bytes())
    data[listed[1].start : listed[1].start + 1536] = (tmp_path / "damaged.tar").read_bytes()[:1536]
    shard.write_bytes(data)
    (one, two, three) = decode_clips(pending(absolute_uris(clips)), [16_000])
    assert (one.error, three.error) == (None, None)
    assert two.error is not None
    with pytest.raises(UsageError, match=r"s\.tar: not a whole, uncompressed tar file"):
        read_tar([str(shard)])


def test_whatever_pyarrow_does_to_a_row_costs_its_own_clip_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"audio": [wav(0), wav(1)]}), tmp_path / "a.parquet", row_group_size=1)
    clips = absolute_uris(read_parquet([str(tmp_path / "a.parquet")], label_column=None))
    real = pq.ParquetFile.read_row_group

    def damaged(file: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        return real(file, group, **options).slice(0, 0 if group else 1)  # fewer rows than the footer says

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", damaged)
    (one, two) = decode_clips(pending(clips), [16_000])
    assert one.error is None
    assert two.error is not None
    assert two.error.code == "decode_failed"


def test_a_shorter_shard_on_s3_gives_the_named_member(s3: S3Server, tmp_path: Path) -> None:
    bucket, url = open_filesystem(f"s3://{s3.bucket}"), f"s3://{s3.bucket}/s.tar"
    bucket.write("s.tar", make_tar(tmp_path / "s.tar", {"1.wav": wav(1, 80_000), "2.wav": wav(2)}).read_bytes())
    listed = places(read_tar([url]))
    bucket.write("s.tar", make_tar(tmp_path / "s.tar", {"2.wav": wav(2)}).read_bytes())
    assert fetch_together(listed[1:]) == [wav(2)]


def test_rows_of_parquet_files_are_read_by_row_group(tmp_path: Path) -> None:
    audio = [{"bytes": wav(i), "path": f"{i}.wav"} for i in range(7)]
    pq.write_table(pa.table({"audio": audio, "n": range(7)}), tmp_path / "a.parquet", row_group_size=3)
    clips = read_parquet([str(tmp_path / "a.parquet")], label_column=None)
    assert len(set(clips["byte_offset"].to_pylist())) == 3
    assert fetch_together(places(clips)) == [wav(i) for i in range(7)]
    gone = Place(f"parquet://audio/9::{tmp_path}/a.parquet", 0, 10)
    found = fetch_together([*places(clips)[:1], gone])
    assert found[0] == wav(0)
    assert isinstance(found[1], ClipError)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.booleans()), max_size=30))
def test_every_clip_is_in_one_group_and_little_is_fetched_in_vain(clips: list[tuple[str, int, bool]]) -> None:
    uris = [f"tar://{number}::/{shard}.tar" for number, (shard, _, _) in enumerate(clips)]
    offsets = [1000 * position if placed else None for _, position, placed in clips]
    groups = neighbors(uris, offsets, [900] * len(clips))
    assert sorted(row for group in groups for row in group) == list(range(len(clips)))
    for group in groups:
        assert len({uris[row].partition("::")[2] for row in group}) == 1
        held = {offset for row in group if (offset := offsets[row]) is not None}
        if held:
            assert max(held) + 900 - min(held) <= 1.1 * 900 * len(held) + 100


def decoded(clips: pa.Table) -> list[object]:
    found = {clip.position: clip.waves for clip in decode_clips(clips, [16_000])}
    return [found[i][16_000].tobytes() if found[i] else None for i in range(len(clips))]


def test_a_task_decodes_the_same_with_and_without_places_and_in_any_order(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {f"{i}.wav": wav(i) for i in range(6)} | {"bad.wav": b"no sound"})
    clips = absolute_uris(read_tar([str(shard)]))
    rows = pending(clips)
    expected = decoded(pending(clips.drop_columns(["byte_offset", "byte_size"])))
    assert decoded(rows) == expected
    assert expected[-1] is None
    shuffled = rows.take(pa.array([3, 6, 0, 2, 5, 1, 4]))
    assert decoded(shuffled) == [expected[i] for i in (3, 6, 0, 2, 5, 1, 4)]


def test_places_survive_a_list_in_csv_and_bad_ones_are_named(tmp_path: Path) -> None:
    out = str(tmp_path / "clips.csv")
    clips = read_tar([str(make_tar(tmp_path / "s.tar", {"1.wav": wav(1)}))])
    write_clips(clips, out)
    assert read_clips(out).equals(absolute_uris(clips))
    Path(out).write_text("clip_id,uri,byte_offset,byte_size\na,/a.wav,-1,many\n")
    with pytest.raises(Exception, match=r"(?s)byte_offset: -1 is no.*byte_size: 'many' is not a whole number"):
        read_clips(out)


def test_tasks_follow_the_shards_and_keep_row_groups_whole() -> None:
    uris = [f"parquet://audio/{row}::s3://b/{'xy'[row % 2]}.parquet" for row in range(40)]
    rows = {
        "clip_id": [f"c{row}" for row in range(40)],
        "uri": uris,
        "start_s": pa.nulls(40, pa.float64()),
        "end_s": pa.nulls(40, pa.float64()),
        "byte_offset": [row // 2 // 6 * 100 for row in range(40)],
        "byte_size": [100] * 40,
    }

    def sizes(clips: pa.Table, task_s: float) -> list[int]:
        return [len(task.clips) for task in unpack(cut_tasks(pending(clips), task_s))]

    table = pa.table(rows)
    groups = [
        {(row["uri"][-9:], row["byte_offset"]) for row in task.clips.to_pylist()}
        for task in unpack(cut_tasks(pending(table), 240))
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)), "a row group is in two tasks"
    assert sizes(pa.table({**rows, "uri": ["parquet://audio/0::/x"] * 40, "byte_offset": [0] * 40}), 240) == [40]
    loose = pa.table({name: rows[name] for name in ("clip_id", "uri", "start_s", "end_s")})
    assert sizes(loose, 480) == [16, 16, 8]
    assert pending(loose)["clip_id"].to_pylist() == rows["clip_id"]


@pytest.mark.parametrize("task_s", [120.0, 480.0])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_few_bytes_are_fetched_that_are_no_audio(s3: S3Server, tmp_path: Path, kind: str, task_s: float) -> None:
    sounds = [wav(i) for i in range(80)]
    bucket = open_filesystem(f"s3://{s3.bucket}")
    for shard in range(2):
        own, path = sounds[40 * shard : 40 * shard + 40], tmp_path / f"{shard}.{kind}"
        if kind == "tar":
            make_tar(
                path, {f"{i}.{end}": data for i, wave in enumerate(own) for end, data in (("wav", wave), ("cls", b"x"))}
            )
        else:
            table = pa.table({"audio": [{"bytes": wave, "path": ""} for wave in own]})
            pq.write_table(table, path, row_group_size=20, compression="none")
        bucket.write(f"{shard}.{kind}", path.read_bytes())
    url = f"s3://{s3.bucket}/*.{kind}"
    clips = read_tar([url]) if kind == "tar" else read_parquet([url], label_column=None)
    s3.requests.clear()
    s3.sent = 0
    tasks = unpack(cut_tasks(pending(clips), task_s))
    waves = [wave for task in tasks for wave in decoded(task.clips)]
    assert None not in waves
    assert len(waves) == 80
    assert s3.sent <= 1.1 * sum(map(len, sounds))
    assert len(s3.requests) <= 30


def test_a_clip_opened_alone_needs_no_place(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", {"1.wav": wav(1)})
    with open_source(f"tar://1.wav::{shard}") as file:
        assert file.read() == wav(1)
