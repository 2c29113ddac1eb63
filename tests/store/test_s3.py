"""The store on S3, through a server that throttles, stalls, drops connections and fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from acoustic_env.errors import LeaseHeld, UsageError
from acoustic_env.io import filesystem, retry
from acoustic_env.io.retry import StoreError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import LEASE
from acoustic_env.store.lease import LeaseLost, acquire_lease, check, read_lease
from acoustic_env.store.verify import verify
from tests.s3 import Fault, S3Server
from tests.store.tables import SIGNALS, fake_errors, fake_fingerprint, fake_table, missing
from tests.store.test_lease import race

FP = fake_fingerprint()


def test_parts_errors_and_runs_live_on_s3_as_on_a_disk(s3: S3Server) -> None:
    store = FeatureStore(s3.url)
    assert missing(store, ["a"], ["raw"]) == [("a", "raw")]
    many = [f"clip {i}" for i in range(3000)]  # more than one request's worth
    path = store.write_part(fake_table(many))
    assert store.write_part(fake_table(many[::-1])) == path
    store.write_errors(fake_errors(("bad", "source", "not_audio", True, 1)))
    store.write_run("run-1", {"run_id": "run-1"})
    assert store.read("fake", clip_ids=["clip 7"]).num_rows == 2
    assert store.read("fake").equals(FeatureStore(s3.url).read("fake", FP))
    assert missing(store, [*many, "bad", "new"]) == [("new", signal) for signal in SIGNALS]
    assert [run["run_id"] for run in store.runs()] == ["run-1"]
    assert not verify(store).issues


@pytest.mark.parametrize("fault", ["throttle", "fail", "drop", "drop_answer", "stall"])
def test_what_passes_is_tried_again_and_nothing_is_lost(s3: S3Server, fault: Fault) -> None:
    every = 11 if fault == "stall" else 3
    s3.choose = lambda _method, _path, number: fault if number % every == 0 else None
    store = FeatureStore(s3.url)
    with acquire_lease(s3.url, "writer") as lease:
        for ids in (["a", "b"], ["c"], ["d"]):
            store.write_part(fake_table(ids))
            check(s3.url, {LEASE: lease.token})
    assert store.read("fake")["clip_id"].to_pylist() == [c for c in "abcd" for _ in SIGNALS]
    assert not verify(store).issues
    assert fault in s3.done


def test_a_service_that_stays_away_is_given_up_with_a_message(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "GIVE_UP_S", 0)
    store = FeatureStore(s3.url)
    s3.choose = lambda method, _path, _number: "throttle" if method == "PUT" else None
    with pytest.raises(StoreError, match=r"SlowDown.*after 7 tries.*run the same command again"):
        store.write_part(fake_table(["a"]))
    s3.choose = lambda _method, _path, _number: None
    assert store.blocks() == {}


def test_a_failing_service_is_no_damaged_part(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "GIVE_UP_S", 0)
    store = FeatureStore(s3.url)
    store.write_part(fake_table(["a"]))
    s3.choose = lambda method, path, _number: "fail" if method == "GET" and ".parquet" in path else None
    with pytest.raises(StoreError, match="InternalError"):
        missing(store, ["a"], ["raw"])


def test_a_truncated_object_is_a_damaged_part(s3: S3Server) -> None:
    store = FeatureStore(s3.url)
    path = store.write_part(fake_table(["a"]))
    store.filesystem.write(path, store.filesystem.read(path)[:-9])
    assert missing(store, ["a"], ["raw"]) == [("a", "raw")]
    assert [path in line for line in store.begin("fake", FP, 1)] == [True]
    assert verify(store).issues == []


def test_of_writers_on_s3_that_start_together_one_gets_the_lease(s3: S3Server, tmp_path: Path) -> None:
    answers = race(s3.url, tmp_path / "go", 3)
    assert sorted(answer.split()[0] for answer in answers) == ["got", "held", "held"]


def test_a_lease_on_s3_is_fenced_and_given_back(s3: S3Server) -> None:
    with acquire_lease(s3.url, "first") as first:
        with pytest.raises(LeaseHeld, match="'first'"), acquire_lease(s3.url, "second"):
            pass
        check(s3.url, {LEASE: first.token})
    with acquire_lease(s3.url, "second") as second:
        assert second.token == first.token + 1
        with pytest.raises(LeaseLost):
            check(s3.url, {LEASE: first.token})


def test_a_lease_whose_answer_was_lost_is_still_ours(s3: S3Server) -> None:
    s3.choose = lambda method, _path, _number: "drop_answer" if method == "PUT" and not s3.done else None
    with acquire_lease(s3.url, "first") as lease:
        assert s3.done == ["drop_answer"]
        check(s3.url, {LEASE: lease.token})


def test_a_server_that_ignores_conditions_gets_no_lease(s3: S3Server) -> None:
    s3.ignore_conditions = True
    expected = r"this S3 server ignores conditions; write to a local disk"
    with pytest.raises(UsageError, match=expected), acquire_lease(s3.url, "first"):
        pass


def test_a_file_is_created_once(s3: S3Server) -> None:
    files = FeatureStore(s3.url).filesystem
    assert files.create("manifest-1.json", b"a")
    assert not files.create("manifest-1.json", b"b")
    assert files.read("manifest-1.json") == b"a"
    s3.choose = lambda method, _path, _number: "drop_answer" if method == "PUT" and not s3.done else None
    assert files.create("manifest-2.json", b"c"), "its own write, of which the answer was lost"
    assert s3.done == ["drop_answer"]
    with pytest.raises(StoreError, match="no such bucket"):
        filesystem.open_filesystem(f"s3://no-such-{s3.bucket}").create("x", b"")


def test_no_bucket_and_no_credentials_say_what_to_do(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = FeatureStore("s3://bucket-that-is-not-there/store")
    for call in (
        lambda: nowhere.blocks(),
        lambda: nowhere.write_part(fake_table(["a"])),
        lambda: read_lease(nowhere.url),
    ):
        with pytest.raises(StoreError, match="no such bucket or folder; create it, or check the URL"):
            call()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    filesystem.remote_filesystem.cache_clear()
    with pytest.raises(StoreError, match=r"no credentials .*set AWS_ACCESS_KEY_ID"):
        FeatureStore(s3.url).write_part(fake_table(["a"]))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    filesystem.remote_filesystem.cache_clear()
