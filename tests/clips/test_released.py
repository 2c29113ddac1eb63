"""AudioSet's released embeddings: TFRecord files read without TensorFlow, and the block made of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.ontology import audioset
from acoustic_env.clips.readers.audioset import read_segments
from acoustic_env.clips.table import read_clips
from acoustic_env.clips.tfrecord import masked_crc32c, read_embeddings
from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.io.documents import load_recipe
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.released import import_released

URBAN, NATURAL = "/t/dd00128", "/t/dd00129"


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(kind: int, content: bytes) -> bytes:
    return field(kind, field(1, content))


def record(ytid: str, start: float, labels: list[str], frames: npt.NDArray[np.uint8]) -> bytes:
    """A SequenceExample as AudioSet's release has it."""
    numbers = b"".join(varint(audioset().class_order.index(label)) for label in labels)
    context = {
        "video_id": feature(1, ytid.encode()),
        "start_time_seconds": feature(2, struct.pack("<f", start)),
        "end_time_seconds": feature(2, struct.pack("<f", start + 10)),
        "labels": feature(3, numbers),
    }
    entries = b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in context.items())
    listed = b"".join(field(1, feature(1, frame.tobytes())) for frame in frames)
    return field(1, entries) + field(2, field(1, field(1, b"audio_embedding") + field(2, listed)))


def tfrecord(path: Path, records: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b""
    for content in records:
        length = struct.pack("<Q", len(content))
        crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        data += length + crcs[0] + content + crcs[1]
    path.write_bytes(data)
    return path


def some_frames(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 128), dtype=np.uint8)


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of three records and a segment list of four clips."""
    rows = [("aaa", 0.0, [URBAN], 10), ("bbb", 30.5, [NATURAL, "/m/09x0r"], 1), ("ccc", 10.0, ["/m/09x0r"], 4)]
    records = [
        record(ytid, start, labels, some_frames(count, i)) for i, (ytid, start, labels, count) in enumerate(rows)
    ]
    tfrecord(tmp_path / "bal_train" / "aa.tfrecord", records[:2])
    tfrecord(tmp_path / "bal_train" / "cc.tfrecord", records[2:])
    lines = [f'{ytid}, {start}, {start + 10}, "{",".join(labels)}"' for ytid, start, labels, _ in rows]
    (tmp_path / "segments.csv").write_text("# list\n" + "\n".join([*lines, f'ddd, 0, 10, "{URBAN}"']))
    return tmp_path / "bal_train", tmp_path / "segments.csv"


def test_the_checksum_is_crc32c() -> None:
    crc = 0xE3069283  # of "123456789", RFC 3720 appendix B.4 and every catalogue of CRCs
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_are_read_with_times_labels_and_frames(release: tuple[Path, Path]) -> None:
    read = list(read_embeddings(str(release[0]), audioset()))
    assert [found.segment.clip_id for found in read] == ["aaa_0", "bbb_30500", "ccc_10000"]
    assert read[1].segment.labels == (NATURAL, "/m/09x0r")
    assert read[1].segment.end_s == 40.5
    assert [len(found.frames) for found in read] == [10, 1, 4]
    assert (read[2].frames == some_frames(4, 2)).all()


@pytest.mark.parametrize(("place", "at"), [(3, "0"), (300, "0"), (None, r"1,\d+"), (-6, r"1,\d+")])
def test_a_damaged_file_is_named_with_the_byte(release: tuple[Path, Path], place: int | None, at: str) -> None:
    path = release[0] / "aa.tfrecord"
    data = bytearray(path.read_bytes())
    if place is None:
        data = data[:-7]
    else:
        data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=rf"aa\.tfrecord: damaged or cut short in the record at byte {at};"):
        list(read_embeddings(str(release[0]), audioset()))


def test_a_record_of_another_kind_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\x0a\x03abc", b"\xff\xff\xff", field(1, b"") + field(2, b"")):
        tfrecord(tmp_path / "x.tfrecord", [content])
        with pytest.raises(UsageError, match=r"x\.tfrecord: the record at byte 0 is no AudioSet embedding"):
            list(read_embeddings(str(tmp_path), audioset()))


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.tfrecord files"):
        list(read_embeddings(str(tmp_path), audioset()))


def test_the_block_keeps_the_frames_and_their_mean_and_deviation() -> None:
    frames = [some_frames(10), some_frames(1, 1), some_frames(3, 2)]
    table = vggish_released.rows(["a", "b", "c"], frames)
    assert table.schema.equals(vggish_released.schema(), check_metadata=True)
    assert str(table.schema.field("frames").type) == "list<item: fixed_size_list<item: uint8>[128]>"
    for row, of in zip(table.to_pylist(), frames, strict=True):
        values = of * (4 / 255) - 2.0
        assert (np.array(row["frames"]) == of).all()
        np.testing.assert_allclose(row["mean"], values.mean(axis=0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(row["std"], values.std(axis=0), rtol=0, atol=1e-6)


def test_an_import_writes_the_recipes_clips_once(release: tuple[Path, Path], tmp_path: Path) -> None:
    folder, segments = release
    store = str(tmp_path / "store")
    notes: list[str] = []
    recipe = load_recipe("urban-nature-with-music")
    first = import_released(str(folder), str(segments), recipe, store, notes.append)
    assert first["clip_id"].to_pylist() == ["aaa_0", "bbb_30500"]
    assert any("1 clips have no record" in note and "ddd_0" in note for note in notes)
    import_released(str(folder), str(segments), None, store, notes.append)
    assert [note.partition("released, ")[2] for note in notes if "rows written" in note] == [
        "2 rows written, 0 were there",
        "1 rows written, 2 were there",
    ]
    rows = FeatureStore(store).read("vggish_released")
    assert rows["clip_id"].to_pylist() == ["aaa_0", "bbb_30500", "ccc_10000"]
    assert set(rows["signal"].to_pylist()) == {"raw"}


def test_a_folder_of_another_list_is_an_error(release: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text('zzz, 0, 10, "/m/09x0r"\n')
    with pytest.raises(UsageError, match="no record of any of the 1 clips"):
        import_released(str(release[0]), str(tmp_path / "other.csv"), None, str(tmp_path / "store"), print)


def test_the_command_writes_list_and_store(
    release: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, segments = release
    out, store = tmp_path / "clips.parquet", tmp_path / "store"
    options = ["--segments", str(segments), "--store", str(store), "--out", str(out)]
    assert main(["clips", "from-audioset-embeddings", str(folder), *options]) == 0
    said = capsys.readouterr()
    assert f"{store}: block vggish_released, 3 rows written, 0 were there" in said.err
    assert "1 clips have no record" in said.err
    assert read_clips(str(out)).num_rows == 3


def test_real_records_agree_with_the_official_list(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "audioset" / "embeddings" / "eval"
    for name in ("--.tfrecord", "0A.tfrecord", "zz.tfrecord"):
        (tmp_path / name).symlink_to(source / name)
    segments = {found.clip_id: found for found in read_segments(str(test_data / "audioset" / "eval_segments.csv"))}
    found = list(read_embeddings(str(tmp_path), audioset()))
    assert len(found) > 5
    for one in found:
        assert set(one.segment.labels) == set(segments[one.segment.clip_id].labels)
        assert one.frames.shape[0] in range(1, 11)


@pytest.mark.slow
def test_records_are_what_tensorflow_reads(test_data: Path, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    name = "-0.tfrecord"
    (tmp_path / name).symlink_to(test_data / "audioset" / "embeddings" / "bal_train" / name)
    ours = list(read_embeddings(str(tmp_path), audioset()))
    theirs = [tf.train.SequenceExample.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(tmp_path / name))]
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        context = other.context.feature
        assert one.segment.ytid == context["video_id"].bytes_list.value[0].decode()
        assert one.segment.start_s == context["start_time_seconds"].float_list.value[0]
        frames = other.feature_lists.feature_list["audio_embedding"].feature
        assert one.frames.tobytes() == b"".join(frame.bytes_list.value[0] for frame in frames)
