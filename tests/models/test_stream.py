"""Frames too long for memory: on the local disk, read from the store once, by how many workers whatever."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.metrics import roc_auc_score

from acoustic_env.config import classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelFramesBlock
from acoustic_env.io.retry import StoreError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences, load_sequences
from acoustic_env.models.data.spooled_frames import SpooledFrames
from acoustic_env.models.data.stored_frames import StoredFrames, find_frames
from acoustic_env.models.estimators.fitting import make_estimator
from acoustic_env.models.training.loop import LocalSession, TrainingSpec, train_network
from acoustic_env.models.training.on_ray import train_on_ray
from acoustic_env.store.feature_store import FeatureStore
from tests.models.streams import examples, generate

PLAIN = {"kind": "attention", "hidden": [16], "heads": 2, "dropout": 0.0, "learning_rate": 1e-2, "max_epochs": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """600 clips in 30 parts."""
    url = str(tmp_path_factory.mktemp("stream"))
    made = examples(url, *generate(url, 600, 20))
    return made.take(np.random.default_rng(0).permutation(600))


def test_rows_on_disk_are_those_in_memory(stored: Examples) -> None:
    held = Sequences(stored.x.source.stored.read())[stored.x._rows]
    assert held.shape == stored.x.shape == (600, 10, 128)
    some = np.random.default_rng(0).integers(600, size=50)  # some twice
    np.testing.assert_array_equal(stored.x[some][3:].load(), held[some].load()[3:])
    batches = [some[:20], some[:0], some[20:]]
    for found, rows in zip(stored.x.batches(batches), batches, strict=True):
        np.testing.assert_array_equal(found, held.load(rows))
    assert stored.x.digest() == held.digest() != stored.x[::-1].digest()
    unread = Sequences(stored.x.source.stored)[stored.x._rows]
    np.testing.assert_array_equal(unread[some].held().load(), held.load(some))


def spools() -> list[Path]:
    """Return the files of frames that lie on this machine's disk."""
    return list(Path(tempfile.gettempdir()).glob("acoustic-env-frames-*/*"))


@pytest.fixture
def own_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_store_is_read_once_whoever_asks_and_nothing_stays(own_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(own_disk / "store")
    made = examples(url, *generate(url, 40, 20))
    expected = made.x.load()
    assert len(spools()) == 1
    other = pickle.loads(pickle.dumps(made.x))  # noqa: S301  as Ray sends it to another process
    monkeypatch.setattr(StoredFrames, "pieces", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(other.load(), expected)
    del made
    assert len(spools()) == 1
    np.testing.assert_array_equal(other.load(), expected)
    del other
    assert spools() == []


def test_what_a_killed_process_left_serves_the_next_and_goes_with_it(own_disk: Path) -> None:
    url = str(own_disk / "store")
    ids, y = generate(url, 40, 20)
    code = "import os, sys; from tests.models.streams import *; "
    code += "made = examples(sys.argv[1], sys.argv[2].split(), np.zeros(40)); made.x.load(); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(own_disk)}
    killed = subprocess.run([sys.executable, "-c", code, url, " ".join(ids)], env=environment, check=False)
    assert (killed.returncode, len(spools())) == (-9, 1)
    made = examples(url, ids, y)
    made.x.load()
    assert len(spools()) == 1
    del made
    assert spools() == []


def test_frames_collected_while_others_are_opened_do_not_wait_for_them(
    own_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(own_disk / "store")
    ids, y = generate(url, 40, 20)
    first, second = examples(url, ids[:20], y[:20]), examples(url, ids, y)
    first.x.load()
    write = SpooledFrames._write

    def collecting(self: SpooledFrames, file: Any) -> None:
        nonlocal first
        del first
        write(self, file)

    monkeypatch.setattr(SpooledFrames, "_write", collecting)
    assert second.x.load().shape == (40, 10, 128)
    del second
    assert spools() == []


def test_too_small_a_disk_is_named_with_what_is_needed(own_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(own_disk / "store")
    made = examples(url, *generate(url, 40, 20))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"No space left on device: 0\.0 GiB needed for frames; set TMPDIR to a local"):
        made.x.load()
    assert spools() == []


def test_signals_stand_side_by_side_though_their_parts_differ(tmp_path: Path) -> None:
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    store, ids = FeatureStore(str(tmp_path)), [f"clip{number:02}" for number in range(12)]
    waves = np.random.default_rng(0).normal(size=(2, 12, 2_000)).astype(np.float32)
    for signal_name, part, own in (("raw", 4, waves[0]), ("original", 3, waves[1][:11])):
        schema = table_schema(block, {"signal": signal_name}, (signal_name,))
        for start in range(0, len(own), part):
            some = own[start : start + part]
            names = ids[start : start + len(some)]
            store.write_part(to_table(schema, names, [signal_name] * len(some), block.compute(some)))
    wanted = ids[::-1]
    found, there = load_sequences(store, wanted, block.name, store.resolve(block.name), unread=True)
    expected = np.concatenate([block.compute(one)["logmel"] for one in waves], axis=2)
    expected[11, :, 6:] = 0
    raw_first = list(there) == ["raw", "original"]
    expected = expected if raw_first else np.roll(expected, 6, axis=2)
    assert there["original"].tolist() == [False] + [True] * 11
    np.testing.assert_array_equal(found.load(), expected[::-1])
    np.testing.assert_array_equal(Sequences(SpooledFrames(found.source)).load(), expected[::-1])


def test_frames_of_a_store_that_was_made_anew_are_those_of_the_new_one(own_disk: Path) -> None:
    url = str(own_disk / "store")
    ids, y = generate(url, 40, 20)
    old = examples(url, ids, y)
    old.x.load()  # which stays in use
    shutil.rmtree(url)
    store = FeatureStore(url)
    store.write_part(vggish_released.rows(ids, [np.full((10, 128), 7, np.uint8)] * 40))
    expected = vggish_released.dequantized(np.full((40, 10, 128), 7, np.uint8))
    np.testing.assert_array_equal(examples(url, ids, y).x.load(), expected)


def test_a_relative_store_is_found_from_another_folder_and_is_not_one_of_the_same_name(
    own_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 1)):
        (own_disk / name).mkdir()
        monkeypatch.chdir(own_disk / name)
        ids, y = generate("features", 20, 20, seed)
        found.append(examples("features", ids, y).x)
    monkeypatch.chdir(own_disk)
    assert not np.array_equal(found[0].load(), found[1].load())
    np.testing.assert_array_equal(found[0].load(), vggish_released.dequantized(found[0].source.stored.read()))


def test_a_folder_that_others_can_write_to_takes_no_frames(own_disk: Path) -> None:
    folder = own_disk / f"acoustic-env-frames-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    made = examples(str(own_disk / "store"), *generate(str(own_disk / "store"), 20, 20))
    with pytest.raises(UsageError, match=r"not a folder of this user alone.*set TMPDIR"):
        made.x.load()
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(UsageError, match="set TMPDIR"):
        made.x.load()


def test_a_read_that_fails_leaves_nothing(own_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = examples(str(own_disk / "store"), *generate(str(own_disk / "store"), 40, 20))
    next(iter((own_disk / "store/features").rglob("*.parquet"))).unlink()
    with pytest.raises(StoreError, match="store verify"):
        made.x.load()
    assert spools() == []


def test_processes_that_read_at_once_and_end_at_once_leave_nothing(own_disk: Path) -> None:
    url = str(own_disk / "store")
    ids, _ = generate(url, 40, 20)
    code = "import sys; from tests.models.streams import *; ids = sys.argv[2].split()"
    code += "; made = [examples(sys.argv[1], some, np.zeros(len(some))) for some in (ids, ids[:20])]"
    code += "; print([one.x.load().sum() for one in made])"
    environment = {**os.environ, "TMPDIR": str(own_disk)}
    command = [sys.executable, "-c", code, url, " ".join(ids)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[0] for process in running]
    assert {process.returncode for process in running} == {0}
    assert len(set(said)) == 1
    assert spools() == []


def test_a_forked_child_neither_keeps_nor_removes_the_file(own_disk: Path) -> None:
    made = examples(str(own_disk / "store"), *generate(str(own_disk / "store"), 20, 20))
    made.x.load()
    child = os.fork()
    if not child:
        time.sleep(0.5)
        os._exit(0)
    assert len(spools()) == 1
    del made
    assert spools() == []
    os.waitpid(child, 0)


def test_as_many_frames_as_one_likes_are_the_same_from_memory_disk_and_store(tmp_path: Path) -> None:
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    store, schema = FeatureStore(str(tmp_path)), table_schema(block, {}, ("raw",))
    for name, samples in (("a", 4_000), ("b", 5_000), ("c", 4_000), ("d", 1_000)):
        wave = np.random.default_rng(0).normal(size=(1, samples)).astype(np.float32)
        store.write_part(to_table(schema, [name], ["raw"], block.compute(wave)))
    stored, _ = find_frames(store, list("abcd"), block.name, store.resolve(block.name), 32)
    for frames in (15, 32, 36, 70):
        ways = [Sequences(one).of_frames(frames) for one in (stored.read(), SpooledFrames(stored), stored)]
        assert {way.shape for way in ways} == {(4, frames, 6)}
        for way in (*ways[1:], Sequences(stored).held().of_frames(frames), ways[2].held()):
            np.testing.assert_array_equal(way.load(), ways[0].load())
            assert way.digest() == ways[0].digest()


def test_a_network_trained_from_disk_is_the_one_trained_from_memory(stored: Examples) -> None:
    settings = classifier_settings({**PLAIN, "augment": {"mixup": 0.1}})
    train, new = stored.take(np.arange(400)), stored.take(np.arange(400, 600))
    models = [make_estimator(settings, 5).fit(train.x, train.y, X_val=new.x, y_val=new.y) for _ in range(2)]
    found = models[0].predict_proba(new.x)
    assert roc_auc_score(new.y, found[:, 1]) > 0.9
    np.testing.assert_array_equal(found, models[1].predict_proba(new.x))
    np.testing.assert_allclose(found, models[0].predict_proba(new.x.load()), atol=1e-6)
    in_memory = make_estimator(settings, 5).fit(train.x.load(), train.y, X_val=new.x.load(), y_val=new.y)
    np.testing.assert_array_equal(found, in_memory.predict_proba(new.x))
    assert 0 < models[0].history_[-1]["data_seconds"] < models[0].history_[-1]["seconds"]


def test_a_part_that_vanished_is_named(tmp_path: Path) -> None:
    made = examples(str(tmp_path), *generate(str(tmp_path), 40, 20))
    next(iter((tmp_path / "features").rglob("*.parquet"))).unlink()
    with pytest.raises(StoreError, match=r"part-.*parquet.*store verify"):
        made.x.load()


def _workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_end_with_the_weights_of_one_process(
    stored: Examples, tmp_path: Path
) -> None:
    settings: Any = classifier_settings({**PLAIN, "max_epochs": 30, "learning_rate": 1e-3, "workers": 2})
    train, held = stored.take(np.arange(400)), stored.take(np.arange(400, 600))
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        deadline = time.monotonic() + 200
        while not killed and time.monotonic() < deadline:
            time.sleep(0.05)
            if list(tmp_path.glob("attention-*/progress.safetensors")):
                killed.append(_workers()[0].pid)
                os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_checkpoint)
    killer.start()
    found = train_on_ray(TrainingSpec(settings, "binary", 2), train, held, str(tmp_path), checkpoint_s=0.2)
    killer.join()
    assert killed
    expected = train_network(TrainingSpec(settings, "binary", 2), train, held, LocalSession())
    losses = [[epoch["validation_loss"] for epoch in one.history] for one in (found, expected)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)  # rounding alone, though it grows
    assert len(losses[0]) == 30
