"""A row exists when a manifest names its part: whoever is killed where, and whoever writes too late."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import LocalFilesystem, S3Filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store import layout, manifest
from acoustic_env.store.compact import compact
from acoustic_env.store.feature_store import FeatureStore, new_part
from acoustic_env.store.gc import collect_garbage
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.parts import part_bytes
from acoustic_env.store.verify import verify
from tests.s3 import S3Server
from tests.store.tables import SIGNALS, FakeBlock, fake_fingerprint, fake_table, missing

FP = fake_fingerprint()
FOLDER = layout.block_folder("fake", FP)
CLIPS = [f"clip {i:02d}" for i in range(12)]


class Killed(BaseException):
    """Stands for SIGKILL at one point of the protocol."""


@contextmanager
def points(call: Callable[[int], None]) -> Iterator[None]:
    """Call a function before and after each write of a part and each creation of a manifest."""
    number = 0

    def wrap(of: object, name: str) -> None:
        real = getattr(of, name)

        def step(*arguments: object) -> object:
            nonlocal number
            if name == "write" and not layout.is_part(str(arguments[1])):
                return real(*arguments)
            call(number := number + 1)
            result = real(*arguments)
            call(number := number + 1)
            return result

        patch.setattr(of, name, step)

    with pytest.MonkeyPatch.context() as patch:
        wrap(manifest.Version, "_create")
        wrap(LocalFilesystem, "write")
        wrap(S3Filesystem, "write")
        yield


def run(url: str, run_id: str, cut: int = 4) -> None:
    """The job in small: begin, then what is missing in slices, a part and a manifest each."""
    store = FeatureStore(url)
    with acquire_blocks(url, ["fake"], run_id) as leases:
        token = leases.tokens[layout.lease_path("fake")]
        pending = [clip for clip, _ in missing(store, CLIPS, ["raw"])]
        if pending:
            store.begin("fake", FP, token)
        for number, start in enumerate(range(0, len(pending), cut)):
            store.write_part(fake_table(pending[start : start + cut]), token, f"{run_id}-{number}")


def undisturbed(url: str) -> None:
    store = FeatureStore(url)
    listed = clip_table([{"clip_id": clip, "uri": "x"} for clip in CLIPS])
    report = verify(store, listed, read_all=True)
    assert report.issues == []
    assert [(b.rows, b.duplicates) for b in report.blocks] == [(2 * len(CLIPS), 0)]
    wanted = fake_table(CLIPS).sort_by([("clip_id", "ascending"), ("signal", "ascending")])
    assert store.read("fake").equals(wanted)


def undisturbed_of(url: str, block: str) -> None:
    """The rows of a block are those of a run that nothing disturbed; other blocks may be there."""
    wanted = fake_table(CLIPS).sort_by([("clip_id", "ascending"), ("signal", "ascending")])
    assert FeatureStore(url).read(block).equals(wanted)


def kill_at(step: int) -> Callable[[int], None]:
    def call(number: int) -> None:
        if number == step:
            raise Killed

    return call


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_run_killed_at_any_point_and_run_once_more_is_the_undisturbed_table(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "store") if place == "disk" else request.getfixturevalue("s3").url
    steps: list[int] = []
    with points(steps.append):
        run(f"{url}-whole", "run-1")
    assert len(steps) == 2 * (1 + 3 * 2)  # base; for each of three slices a part and its manifest
    for step in steps:
        with suppress(Killed), points(kill_at(step)):
            run(f"{url}-{step}", "run-1")
        run(f"{url}-{step}", "run-2", cut=5)
        undisturbed(f"{url}-{step}")


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_compaction_killed_at_any_point_changes_no_table(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "store") if place == "disk" else request.getfixturevalue("s3").url
    for step in range(1, 7):
        store_url = f"{url}-{step}"
        run(store_url, "run-1")
        with suppress(Killed), points(kill_at(step)):
            list(compact(store_url, part_bytes=1200))
        undisturbed(store_url)
        list(compact(store_url, part_bytes=10**6))
        undisturbed(store_url)
        assert len(FeatureStore(store_url).parts("fake", FP)) == 1


def test_what_a_writer_commits_after_the_next_holder_began_is_of_no_account(tmp_path: Path) -> None:
    url = str(tmp_path)
    late = FeatureStore(url)
    late.begin("fake", FP, 1)
    late.write_part(fake_table(["a"]), 1, "run-1-0")
    now = FeatureStore(url)
    now.begin("fake", FP, 2)
    late.write_part(fake_table(["b"]), 1, "run-1-1")
    assert [c for c, _ in missing(now, ["a", "b"], ["raw"])] == ["b"]
    now.write_part(fake_table(["b"]), 2, "run-2-0")
    with pytest.raises(StoreError, match="a later writer has begun"):
        late.begin("fake", FP, 1)
    report = verify(now)
    assert report.issues == []
    assert (report.blocks[0].rows, report.blocks[0].duplicates) == (4, 0)
    assert any("1 parts that no manifest names" in note for note in report.notes)


def test_a_slice_that_is_written_again_gives_its_files_their_names(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path))
    store.begin("fake", FP, 1)
    table = fake_table(["a", "b"])
    assert store.write_part(table, 1, "run-1-0") == FeatureStore(store.url).write_part(table, 1, "run-1-0")
    assert store.read("fake").num_rows == 4
    assert len(store.parts("fake", FP)) == 1


def test_slices_of_many_writers_at_once_are_all_there(tmp_path: Path) -> None:
    FeatureStore(str(tmp_path)).begin("fake", FP, 1)

    def write(number: int) -> None:
        FeatureStore(str(tmp_path)).write_part(fake_table([f"clip {number}"]), 1, f"run-1-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert len(FeatureStore(str(tmp_path)).parts("fake", FP)) == 40
    assert [path.name for path in tmp_path.rglob(".*") if path.is_file()] == [".lock"]


def test_a_reader_beside_writers_compactions_and_gc_sees_each_key_once(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    run(url, "run-0")
    ended = threading.Event()
    seen: list[list[tuple[str, str]]] = []

    def read() -> None:
        store = FeatureStore(url)
        while not ended.is_set():
            table = store.read("fake")
            seen.append(list(zip(table["clip_id"].to_pylist(), table["signal"].to_pylist(), strict=True)))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(5):
            with acquire_blocks(url, ["fake"], f"run-{number}") as leases:
                token = leases.tokens[layout.lease_path("fake")]
                store = FeatureStore(url)
                store.begin("fake", FP, token)
                store.write_part(fake_table([f"new {number}"]), token, f"run-{number}")
            list(compact(url, part_bytes=2000))
            collect_garbage(url, 3600.0)
    finally:
        ended.set()
        thread.join(timeout=60)
    assert len(seen) > 2
    for keys in seen:
        assert len(set(keys)) == len(keys)
        assert {(clip, signal) for clip in CLIPS for signal in SIGNALS} <= set(keys)


def test_gc_keeps_what_a_reader_may_still_see(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    run(url, "run-1")
    before = {part.path for part in FeatureStore(url).parts("fake", FP)}
    list(compact(url))
    files = {file.path for file in collect_garbage(url, 3600.0).files}
    assert files == set()
    assert {file.path for file in collect_garbage(url, 0.0, dry_run=True).files} >= before
    assert (tmp_path / "store" / FOLDER).is_dir()
    assert before <= {file.path for file in collect_garbage(url, 0.0).files}
    undisturbed(url)
    collect_garbage(url, 0.0)  # the base that the one before had written as a fence
    undisturbed(url)
    assert len(list((tmp_path / "store" / FOLDER).glob("part-*"))) == 1
    assert len(list((tmp_path / "store" / FOLDER).glob("manifest-*"))) == 1
    assert collect_garbage(url, 0.0).files == []


def test_a_dry_run_of_gc_writes_nothing(tmp_path: Path) -> None:
    run(str(tmp_path), "run-1")
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    collect_garbage(str(tmp_path), 0.0, dry_run=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == files


def test_a_store_without_manifests_is_refused_with_the_command_that_takes_it_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path)
    run(url, "run-1")
    FeatureStore(url).write_part(fake_table(["clip 00"]))
    for file in (tmp_path / FOLDER).glob("manifest-*"):
        file.unlink()
    with pytest.raises(UsageError, match="written before parts were named in manifests"):
        FeatureStore(url).read("fake")
    assert main(["store", "ls", url]) == 2
    advice = capsys.readouterr().err.partition("take them over once: ")[2].split()
    assert main(advice[1:4]) == 0
    undisturbed(url)


def follow(said: str) -> None:
    """Run the command that a message ends with."""
    command = said[said.index("acoustic-env store compact") :].split()
    assert main(command[1:4]) == 0


@pytest.mark.parametrize("content", ["half of", "{}", "[1]", '{"format": 1, "parts": [{"name": "../../x.parquet"}]}'])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_manifest_is_named_and_its_advice_brings_the_whole_parts_back(
    tmp_path: Path, which: int, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path)
    run(url, "run-1")
    FeatureStore(url).write_part(fake_table(["a"], block=FakeBlock(name="other")))
    file = sorted((tmp_path / FOLDER).glob("manifest-*"))[which]
    file.write_text(content)
    with pytest.raises(StoreInconsistentError, match=rf"{file.name}: it is damaged"):
        FeatureStore(url).read("fake")
    assert FeatureStore(url).read("other").num_rows == 2
    assert main(["store", "ls", url]) == 5
    assert main(["store", "verify", url]) == 5
    said = capsys.readouterr()
    assert "other/" in said.out, "other blocks are accounted for"
    assert len(said.err) < 3000
    follow(said.err)
    undisturbed_of(url, "fake")


def test_a_lost_base_is_seen_and_no_manifest_is_needed_twice_after_the_end_of_a_run(tmp_path: Path) -> None:
    url = str(tmp_path)
    run(url, "run-1")
    store = FeatureStore(url)
    base, *commits = sorted((tmp_path / FOLDER).glob("manifest-*"))
    base.rename(tmp_path / "base")
    with pytest.raises(StoreInconsistentError, match=r"base\.json: it is gone"):
        store.read("fake")
    assert verify(store).issues
    (tmp_path / "base").rename(base)
    store.version("fake", FP).end(1)
    for file in (base, *commits):
        file.unlink()
        undisturbed(url)


def test_a_lease_file_that_is_gone_gives_no_fencing_id_twice(tmp_path: Path) -> None:
    """The advice for a damaged lease locked the store, and a compaction then wrote over a committed part."""
    url = str(tmp_path)
    run(url, "run-1")
    list(compact(url))
    shutil.rmtree(tmp_path / layout.lease_path("fake"))
    FeatureStore(url).write_part(fake_table(["new"]))
    run(url, "run-2")
    list(compact(url, part_bytes=10**6))
    assert verify(FeatureStore(url), read_all=True).issues == []
    assert FeatureStore(url).read("fake").num_rows == 2 * (len(CLIPS) + 1)


def test_gc_fences_a_writer_that_lost_its_lease(tmp_path: Path) -> None:
    url = str(tmp_path)
    run(url, "run-1")
    version = FeatureStore(url).version("fake", FP)
    table = fake_table(["late"])
    part = new_part(layout.part_path(FOLDER, "late"), table)
    version.filesystem.write(part.path, part_bytes(table))
    collect_garbage(url, 0.0)
    version.commit(1, "late", part)
    undisturbed(url)


def test_a_part_that_is_a_copy_of_another_is_damaged(tmp_path: Path) -> None:
    run(str(tmp_path), "run-1", cut=6)
    one, other = sorted((tmp_path / FOLDER).glob("part-*"))
    one.write_bytes(other.read_bytes())
    assert any("its clips are not those" in issue for issue in verify(FeatureStore(str(tmp_path))).issues)


def test_adding_a_little_to_a_large_table_rewrites_a_little(tmp_path: Path) -> None:
    url = str(tmp_path)
    store = FeatureStore(url)
    store.write_part(fake_table([f"large {i:05d}" for i in range(20_000)]))
    for week in range(3):
        store.write_part(fake_table([f"week {week} {i}" for i in range(20)]))
    large = max(store.parts("fake", FP), key=lambda part: part.size)
    (done,) = compact(url)
    assert (done.before, done.parts) == (4, 2)
    assert done.read < large.size / 10
    assert large.path in {part.path for part in FeatureStore(url).parts("fake", FP)}
    assert list(compact(url)) == []


@pytest.fixture
def s3_store(s3: S3Server) -> FeatureStore:
    return FeatureStore(s3.url)


def test_planning_reads_no_listing_of_parts(s3: S3Server, s3_store: FeatureStore) -> None:
    for number in range(4):
        s3_store.write_part(fake_table([f"clip {number}"]))
    asked: list[str] = []
    s3.choose = lambda method, path, _number: asked.append(f"{method} {path}")  # type: ignore[func-returns-value]
    FeatureStore(s3.url).blocks()
    assert asked
    listed = [path for path in asked if path.startswith("GET") and "list-type" in path]
    assert all("delimiter" in path or "manifest-" in path for path in listed), listed
