"""A permanent error outlived its cure: `extract` went on excluding and counting the clip, `store errors` hid it.

After `--retry-errors` had succeeded, the old row of the errors table still excluded the clip from every new block or
fingerprint. `store errors` had a rule of its own, and hid errors that still excluded clips.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.pipeline.sink import Write
from acoustic_env.pipeline.task import WORK_SCHEMA, RowError, Task
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
from acoustic_env.store.lease import acquire_blocks
from tests.store.tables import fake_errors, fake_fingerprint, fake_table, missing

FP = fake_fingerprint()


class Study:
    """A clip list of two files, of which `bad` can be broken and mended."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.store = str(folder / "store")
        self.clips = str(folder / "clips.csv")
        self.files = {name: folder / f"{name}.wav" for name in ("good", "bad")}
        write_clips(clip_table([{"clip_id": name, "uri": str(path)} for name, path in self.files.items()]), self.clips)
        for name in self.files:
            self.mend(name)

    def break_it(self, name: str) -> None:
        self.files[name].write_bytes(b"no sound " * 100)

    def mend(self, name: str) -> None:
        soundfile.write(self.files[name], np.random.default_rng(1).normal(0, 0.1, 16_000), 16_000)

    def extract(self, block: str, *more: str) -> dict[str, Any]:
        arguments = ["--clips", self.clips, "--store", self.store, "--blocks", block, "--signals", "raw", "--json"]
        code = main(["extract", *arguments, "--max-error-rate", "1", *more])
        assert code == 0
        record: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return record

    def errors(self) -> list[tuple[str, str]]:
        """(clip, code) of the open errors."""
        assert main(["store", "errors", self.store, "--json"]) == 0
        return [(row["clip_id"], row["code"]) for row in json.loads(self.capsys.readouterr().out)["errors"]]

    def permanent(self, block: str) -> int:
        """Clips that `store verify` excludes from a block."""
        assert main(["store", "verify", self.store, "--clips", self.clips, "--json"]) == 0
        blocks = json.loads(self.capsys.readouterr().out)["blocks"]
        return sum(counts["permanent"] for found in blocks if found["block"] == block for counts in found["counts"])


@pytest.fixture
def study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Study:
    return Study(tmp_path, capsys)


@pytest.mark.usefixtures("ray_cluster")
class TestExtract:
    @pytest.mark.slow
    def test_a_clip_mended_and_retried_gets_its_rows_in_a_new_block(self, study: Study) -> None:
        study.break_it("bad")
        assert study.extract("placeholder")["failed_on_list"] == 1
        assert study.errors() == [("bad", "not_audio")]
        study.mend("bad")
        assert study.extract("placeholder", "--retry-errors")["failed_on_list"] == 0
        assert study.errors() == []
        record = study.extract("placeholder_frames")
        assert (record["pending"], record["finished"], record["failed_on_list"]) == (2, 2, 0)
        assert study.permanent("placeholder_frames") == study.permanent("placeholder") == 0

    @pytest.mark.slow
    def test_a_clip_that_broke_after_it_had_rows_is_counted_and_listed(self, study: Study) -> None:
        study.extract("placeholder")
        study.break_it("bad")
        assert study.extract("placeholder_frames")["failed_on_list"] == 1
        assert study.errors() == [("bad", "not_audio")]
        assert study.permanent("placeholder_frames") == 1
        again = study.extract("placeholder_frames")
        assert (again["pending"], again["failed_on_list"]) == (0, 1)


class Killed(BaseException):
    """Stands for SIGKILL."""


def finished(attempt: int, errors: list[RowError], block: str = "placeholder") -> tuple[Any, pa.Table]:
    """One clip as it reaches the sink, with its rows unless it has errors."""
    work = block_work(BlockSpec(block, "fast", 0, ("raw",)))
    columns = {column.name: np.zeros((1, column.size) if column.size > 1 else 1) for column in work.spec.make().columns}
    from acoustic_env.features.block import to_table

    task = Task(pa.Table.from_pylist([{"clip_id": "a", "uri": "a.wav", "need": 1, "attempt": attempt}], WORK_SCHEMA))
    task.errors = [(0, error) for error in errors]
    if not errors:
        task.rows[block] = [to_table(work.schema, ["a"], ["raw"], columns)]
    return work, task.pack()


@pytest.mark.parametrize("code", ["worker_died", "not_audio"])
def test_a_run_killed_before_its_rows_leaves_a_pending_clip_not_an_excluded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Any
) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    subject = ("placeholder", "raw") if code == "worker_died" else (None, None)
    work, failed = finished(1, [RowError("compute", code, "what happened", True, *subject)])
    version = work.fingerprints["raw"]
    leases = {lease_path("placeholder"): 0}
    with acquire_blocks(store.url, ["placeholder"], "this test") as held:
        leases = held.tokens
        store.begin("placeholder", version, leases[lease_path("placeholder")])
        _killed_and_run_again(store, leases, work, failed, monkeypatch)


def _killed_and_run_again(
    store: FeatureStore, leases: dict[str, int], work: Any, failed: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def excluded() -> list[str]:
        found: list[str] = Failures(store.errors()).excluded("placeholder", work.fingerprints["raw"], "raw").to_pylist()
        return found

    assert Write(store.url, leases, [work], "run-1")(0, failed).failed == 1
    assert excluded() == ["a"]

    def die(self: FeatureStore, *_: object) -> str:
        raise Killed

    work, done = finished(2, [])
    with monkeypatch.context() as killing:
        killing.setattr(FeatureStore, "write_part", die)
        with pytest.raises(Killed):
            Write(store.url, leases, [work], "run-2")(0, done)
    for _ in range(2):
        assert excluded() == []
        assert Failures(store.errors()).open(store).num_rows == 0
        assert Write(store.url, leases, [work], "run-3")(0, finished(3, [])[1]).failed == 0


def test_an_error_of_one_signal_excludes_that_signal_only(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    errors = fake_errors(("a", "fake", "compute_failed", True, 1))
    store.write_errors(errors.filter(pc.equal(errors["signal"], "fg")))
    assert missing(store, ["a"]) == [("a", "raw")]
    store.write_part(fake_table(["a"], ["raw"]))
    assert Failures(store.errors()).open(store)["signal"].to_pylist() == ["fg"]
    store.write_part(fake_table(["a"], ["fg"]))
    assert Failures(store.errors()).open(store).num_rows == 0
