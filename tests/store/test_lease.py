"""One writer at a time, found out by real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from acoustic_env.errors import LeaseHeld
from acoustic_env.io.retry import StoreError
from acoustic_env.store import lease as lease_module
from acoustic_env.store.layout import LEASE
from acoustic_env.store.lease import (
    Lease,
    LeaseLost,
    LeaseRecord,
    acquire_blocks,
    acquire_lease,
    acquire_sources,
    check,
    held_leases,
    read_lease,
)

# Waits for the file "go", tries to get the lease once, says what it got, keeps it until its input ends.
CONTENDER = """
import sys, time
from pathlib import Path
from acoustic_env.errors import LeaseHeld
from acoustic_env.store.lease import acquire_lease
url, go, name = sys.argv[1:4]
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.002)
try:
    with acquire_lease(url, name) as lease:
        print("got", lease.token, flush=True)
        sys.stdin.read()
except LeaseHeld as error:
    print("held", error, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def contender(url: str, go: Path, name: str = "contender") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONTENDER, url, str(go), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(url: str, go: Path, count: int) -> list[str]:
    processes = [contender(url, go, f"number {i}") for i in range(count)]
    for process in processes:
        assert said(process) == "ready"
    go.touch()
    answers = [said(process) for process in processes]
    for process in processes:
        process.communicate("", timeout=20)
    return answers


def elsewhere(url: str, **changes: object) -> LeaseRecord:
    """A lease of a writer on another machine."""
    with acquire_lease(url, "over there"):
        record = read_lease(url)
    assert record is not None
    values: dict[str, object] = {"released": False, "host": "far-away", "machine": "another boot"}
    record = replace(record, **{**values, "expires": time.time() + 60, "nonce": "other", **changes})  # type: ignore[arg-type]
    write(url, record)
    return record


def write(url: str, record: LeaseRecord) -> None:
    (Path(url) / "lease" / f"{record.fencing_id:08d}.json").write_text(json.dumps(record.__dict__))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def test_of_writers_that_start_together_one_gets_the_lease(url: str, tmp_path: Path) -> None:
    answers = race(url, tmp_path / "go", 4)
    assert sum(answer.startswith("got") for answer in answers) == 1
    (winner,) = [f"number {i}" for i, answer in enumerate(answers) if answer.startswith("got")]
    assert all(f"'{winner}'" in answer for answer in answers if answer.startswith("held"))


def test_the_second_writer_is_told_who_holds_it_and_until_when(url: str) -> None:
    with (
        acquire_lease(url, "extract run-7"),
        pytest.raises(LeaseHeld) as raised,
        acquire_lease(url, "second"),
    ):
        pass
    message = str(raised.value)
    assert raised.value.exit_code == 4
    for part in ("'extract run-7'", f"process {os.getpid()}", "host ", "since 20", "until 20"):
        assert part in message


def test_fencing_ids_only_grow_and_an_old_one_is_refused(url: str) -> None:
    with acquire_lease(url, "first") as first:
        check(url, {LEASE: first.token})
        first.check()
    with pytest.raises(LeaseLost, match="was released"):
        check(url, {LEASE: first.token})
    with acquire_lease(url, "second") as second:
        assert second.token == first.token + 1
        with pytest.raises(LeaseLost, match="held by 'second'"):
            check(url, {LEASE: first.token})
    first.release()
    second.release()
    with pytest.raises(LeaseLost):
        check(url, {LEASE: second.token})


def test_a_killed_holder_on_this_machine_is_followed_at_once(url: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    process = contender(url, tmp_path / "go")
    assert said(process) == "ready"
    assert said(process) == "got 1"
    with pytest.raises(LeaseHeld), acquire_lease(url, "too early"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    with acquire_lease(url, "heir") as lease:
        assert lease.token == 2


def test_ctrl_c_gives_the_lease_back(url: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    process = contender(url, tmp_path / "go")
    assert [said(process), said(process)] == ["ready", "got 1"]
    process.send_signal(signal.SIGINT)
    assert said(process) == "interrupted"
    process.wait(timeout=10)
    record = read_lease(url)
    assert record is not None
    assert record.released


def test_a_holder_elsewhere_is_waited_for_until_expiry_and_the_margin_of_clocks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "WATCH_S", 0.1)
    margin = lease_module.SKEW_S
    elsewhere(url)
    with pytest.raises(LeaseHeld, match="far-away"), acquire_lease(url, "second"):
        pass
    elsewhere_url = f"{url}-2"
    elsewhere(elsewhere_url, expires=time.time() - margin + 5)
    with pytest.raises(LeaseHeld), acquire_lease(elsewhere_url, "second"):
        pass
    third_url = f"{url}-3"
    record = elsewhere(third_url, expires=time.time() - margin - 1)
    with acquire_lease(third_url, "second") as lease:
        assert lease.token == record.fencing_id + 1


@pytest.mark.parametrize("clock_s", [-18_000.0, 18_000.0])
def test_clocks_hours_apart_neither_take_a_lease_from_the_living_nor_keep_it_for_the_dead(
    url: str, clock_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "WATCH_S", 1.0)
    monkeypatch.setattr(lease_module, "WAIT_STEP_S", 0.02)
    record = elsewhere(url, expires=time.time() + clock_s)
    renewed = replace(record, expires=record.expires + 15)
    (Path(url) / "renewed.json").write_text(json.dumps(renewed.__dict__))
    file = Path(url) / "lease" / f"{record.fencing_id:08d}.json"
    heartbeat = threading.Timer(0.2, (Path(url) / "renewed.json").replace, [file])
    heartbeat.start()
    with pytest.raises(LeaseHeld, match="far-away"), acquire_lease(url, "second"):
        pass
    heartbeat.join()
    with acquire_lease(url, "heir") as lease:
        assert lease.token == record.fencing_id + 1


def test_another_process_with_the_dead_holders_number_does_not_keep_the_lease(url: str) -> None:
    with acquire_lease(url, "old"):
        record = read_lease(url)
    assert record is not None
    stale = replace(record, released=False, expires=time.time() + 60, process_started=record.process_started - 1000)
    write(url, stale)
    with acquire_lease(url, "new") as lease:
        assert lease.token == record.fencing_id + 1


def test_a_holder_that_proc_hides_from_other_users_keeps_its_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire_lease(url, "another user's"):
        read_text = Path.read_text

        def hidden(path: Path, *args: str, **options: str) -> str:
            if path.match("/proc/*/stat"):
                raise FileNotFoundError(path)
            return read_text(path, *args, **options)

        monkeypatch.setattr(Path, "read_text", hidden)
        with pytest.raises(LeaseHeld, match="another user's"), acquire_lease(url, "ours"):
            pass


def test_the_heartbeat_moves_the_expiry_on(url: str) -> None:
    with acquire_lease(url, "long", ttl_s=0.4) as lease:
        first = later = read_lease(url)
        assert first is not None
        deadline = time.monotonic() + 60
        while later is None or later.expires <= first.expires + 0.3:
            assert time.monotonic() < deadline, "no heartbeat in 60 s"
            time.sleep(0.05)
            later = read_lease(url)
        assert (later.fencing_id, later.nonce) == (lease.token, first.nonce)


def test_a_holder_whose_lease_was_taken_finds_out_and_leaves_it_alone(url: str) -> None:
    with acquire_lease(url, "sleeper", ttl_s=0.4) as lease:
        taken = read_lease(url)
        assert taken is not None
        new = replace(taken, fencing_id=taken.fencing_id + 1, nonce="new", holder="taker", expires=time.time() + 60)
        write(url, new)
        wait_until_lost(lease)
        with pytest.raises(LeaseLost, match="'taker'"):
            lease.check()
    assert read_lease(url) == new


def wait_until_lost(lease: Lease) -> None:
    deadline = time.monotonic() + 60
    while not lease.lost:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lease_file_that_is_none_says_what_to_do(url: str) -> None:
    (Path(url) / "lease").mkdir(parents=True)
    (Path(url) / "lease" / "00000001.json").write_text("{}")
    with pytest.raises(StoreError, match="if no writer runs, remove the file"), acquire_lease(url, "x"):
        pass


def test_threads_and_a_memory_store_keep_to_the_lease(request: pytest.FixtureRequest) -> None:
    url = f"memory://{request.node.name}"
    with acquire_lease(url, "one"), pytest.raises(LeaseHeld), acquire_lease(url, "two"):
        pass


def test_writers_of_different_blocks_hold_their_leases_side_by_side(url: str) -> None:
    with (
        acquire_blocks(url, ["mps", "indices"], "cpu job") as first,
        acquire_blocks(url, ["yamnet"], "gpu job") as second,
    ):
        assert sorted(held_leases(url)) == ["indices", "mps", "yamnet"]
        with pytest.raises(LeaseHeld, match="leases/mps: 'cpu job'"), acquire_blocks(url, ["a", "mps"], "third"):
            pass
        assert "a" not in held_leases(url)  # what the third had taken before is released
        first.check()
        second.check()
    assert held_leases(url) == {}
    with pytest.raises(LeaseLost, match="was released"):
        first.check()


def test_the_table_of_sources_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "WAIT_STEP_S", 0.01)
    order: list[str] = []

    def second() -> None:
        with acquire_sources(url, "second"):
            order.append("second")

    thread = threading.Thread(target=second)
    with acquire_sources(url, "first"):
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=100)
    assert order == ["first", "second"]


def test_of_two_that_saw_the_same_holder_one_follows_however_late_the_other_is(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late one creates a file that later holders have removed: their lease stays, and it is told of them."""
    with acquire_lease(url, "first"):
        pass
    seen = read_lease(url)
    newest, views = lease_module._newest, [seen]
    monkeypatch.setattr(lease_module, "_newest", lambda *place: views.pop() if views else newest(*place))
    for name in ("second", "third"):
        views.clear()
        with acquire_lease(url, name):
            pass
    with acquire_lease(url, "fourth") as lease:
        views.append(seen)
        with pytest.raises(LeaseHeld, match="'fourth'"), acquire_lease(url, "late"):
            pass
        lease.check()
    assert not any(views)
