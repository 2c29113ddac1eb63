"""The extraction job on a real Ray: nothing that goes wrong loses a clip."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.config import Recipe
from acoustic_env.errors import LeaseHeld, TooManyFailures
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks

BLOCKS = ("placeholder",)
MIB = 1 << 20


def write_noise(folder: Path, clips: int, seconds: float = 2.0) -> Path:
    """A clip list over noise files, one of them stereo at 44.1 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(clips):
        rate, shape = (44_100, (int(44_100 * seconds), 2)) if i == 1 else (16_000, (int(16_000 * seconds),))
        path = folder / f"clip {i}.wav"
        soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, shape), rate)
        rows.append({"clip_id": f"c{i:04d}", "uri": str(path), "labels": ["noise"], "group": f"g{i}", "source": "test"})
    write_clips(clip_table(rows), str(folder / "clips.parquet"))
    return folder / "clips.parquet"


def rows(store: Path | str, block: str = "placeholder") -> pa.Table:
    return FeatureStore(str(store)).read(block).sort_by([("clip_id", "ascending"), ("signal", "ascending")])


def command(clips: Path, store: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "acoustic_env.cli", "extract", "--clips", str(clips), "--store", str(store)]
    return [*start, "--blocks", ",".join(BLOCKS), *more]


def wait_for_parts(store: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while len(list(store.glob("features/*/*/part-*.parquet"))) < count:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline, "no part after 400 s"
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_cluster")
class TestOnOneCluster:
    def test_a_run_started_while_an_error_is_handled_writes_its_record(self, tmp_path: Path) -> None:
        settings = ExtractSettings(
            clips=str(write_noise(tmp_path / "audio", 2)), store=str(tmp_path / "store"), blocks=BLOCKS
        )
        try:
            raise KeyError
        except KeyError:
            extract(settings)
        (record,) = FeatureStore(settings.store).runs()
        assert record["finished"] == 2

    def test_every_bad_clip_is_an_error_row_and_every_good_one_has_its_rows(self, tmp_path: Path) -> None:
        clips = write_noise(tmp_path / "audio", 6)
        bad = {"missing": None, "empty": b"", "text": b"hello " * 100, "cut": b"RIFF\x24\x00\x00\x00WAVEfmt "}
        table = []
        for name, content in bad.items():
            path = tmp_path / f"{name} 'é'.wav"
            if content is not None:
                path.write_bytes(content)
            table.append({"clip_id": name, "uri": str(path), "labels": [], "group": name, "source": "test"})
        soundfile.write(tmp_path / "short.wav", np.zeros(800), 16_000)
        soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
        table.append({"clip_id": "short", "uri": str(tmp_path / "short.wav")})
        table.append({"clip_id": "silent", "uri": str(tmp_path / "silent.wav")})
        table.append({"clip_id": "beyond", "uri": str(tmp_path / "silent.wav"), "start_s": 9.0, "end_s": 10.0})
        whole = pa.concat_tables([read_clips(str(clips)), clip_table(table)])
        write_clips(whole, str(tmp_path / "all.csv"))
        store = tmp_path / "store"
        settings = ExtractSettings(clips=str(tmp_path / "all.csv"), store=str(store), blocks=BLOCKS, max_error_rate=1.0)
        record = extract(settings)

        good = {f"c{i:04d}" for i in range(6)} | {"silent"}
        assert set(rows(store)["clip_id"].to_pylist()) == good
        assert rows(store).num_rows == 3 * len(good)
        errors = FeatureStore(str(store)).errors()
        codes = dict(zip(errors["clip_id"].to_pylist(), errors["code"].to_pylist(), strict=True))
        assert codes == {
            "missing": "not_found",
            "empty": "empty",
            "text": "not_audio",
            "cut": "decode_failed",
            "short": "too_short",
            "beyond": "no_such_segment",
        }
        assert (record.finished, record.failed, record.left) == (13, 6, 1), "what is not there may come"
        assert set(record.memory) == {"cpu", "write"}
        assert all(50 * MIB < peak < 4096 * MIB for peak in record.memory.values())
        assert main(["store", "verify", str(store), "--clips", str(tmp_path / "all.csv")]) == 0

        again = extract(settings)
        assert (again.pending, again.failed) == (1, 1), "a missing file is tried again"
        soundfile.write(tmp_path / "missing 'é'.wav", np.random.default_rng(9).normal(0, 0.1, 32_000), 16_000)
        mended = extract(settings)
        assert (mended.pending, mended.failed) == (1, 0), "the advice, followed to the letter"
        retried = extract(settings.replace(retry_errors=True))
        assert (retried.pending, retried.failed) == (5, 5)
        assert "missing" in rows(store)["clip_id"].to_pylist()
        with pytest.raises(TooManyFailures, match=r"5 of 13 clips"):
            extract(settings.replace(max_error_rate=0.1))

    @pytest.mark.slow
    def test_a_worker_killed_in_mid_run_costs_no_clip(self, tmp_path: Path) -> None:
        clips = write_noise(tmp_path / "audio", 40)
        killed: list[int] = []

        def kill_one() -> None:
            deadline = time.monotonic() + 300
            while not killed and time.monotonic() < deadline:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        line = " ".join(process.cmdline())
                        if "ray::" in line and "CrashIsolatedStage" in line:
                            process.send_signal(signal.SIGKILL)
                            killed.append(process.pid)
                            return
                time.sleep(0.02)

        killer = threading.Thread(target=kill_one)
        killer.start()
        record = extract(ExtractSettings(clips=str(clips), store=str(tmp_path / "store"), blocks=BLOCKS))
        killer.join()
        assert killed, "no worker was found to kill"
        assert record.finished == 40
        keys = rows(tmp_path / "store").select(["clip_id", "signal"]).to_pylist()
        assert len(keys) == 120 == len({tuple(key.values()) for key in keys})

    @pytest.mark.slow
    def test_a_single_clip_has_a_single_worker_of_which_ray_does_not_warn(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        clips = write_noise(tmp_path / "audio", 1)
        assert extract(ExtractSettings(clips=str(clips), store=str(tmp_path / "store"), blocks=BLOCKS)).finished == 1
        assert not [str(warning.message) for warning in recwarn if "concurren" in str(warning.message)]

    @pytest.mark.slow
    def test_a_new_block_or_signal_computes_only_what_is_missing(self, tmp_path: Path) -> None:
        clips = write_noise(tmp_path / "audio", 4)
        store = str(tmp_path / "store")
        first = extract(ExtractSettings(clips=str(clips), store=store, blocks=BLOCKS, signals=("raw",), limit=3))
        assert first.rows == {"placeholder": 3}
        second = extract(
            ExtractSettings(clips=str(clips), store=store, blocks=("placeholder", "mps"), signals=("raw", "bg"))
        )
        assert second.rows == {"placeholder": 5, "mps": 8}
        assert (
            extract(ExtractSettings(clips=str(clips), store=store, blocks=("mps",), signals=("raw", "bg"))).pending == 0
        )


def test_a_second_writer_is_told_who_holds_the_store_and_ends_with_exit_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_noise(tmp_path / "audio", 1)
    store = str(tmp_path / "store")
    with acquire_blocks(store, BLOCKS[:1], "the first run"), pytest.raises(LeaseHeld, match="the first run"):
        extract(ExtractSettings(clips=str(clips), store=store, blocks=BLOCKS))
    with acquire_blocks(store, ["placeholder"], "the first run"):
        assert main(["extract", "--clips", str(clips), "--store", store, "--blocks", "placeholder"]) == 4
    assert "the first run" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = write_noise(tmp_path / "audio", 3)
    store = tmp_path / "store"
    arguments = [
        "extract",
        "--clips",
        str(clips),
        "--store",
        str(store),
        "--blocks",
        "placeholder,indices",
        "--dry-run",
    ]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["pending"], record["left"], record["failed_on_list"]) == (3, 3, 0)
    assert "pool      cpu" in captured.err
    assert "block     indices" in captured.err
    assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "s"], "--clips: not given"),
        (["--clips", "nowhere.parquet", "--store", "s"], "nowhere.parquet"),
        (["--clips", "{folder}/empty", "--store", "s"], "no audio files below it"),
        (["--clips", "{clips}", "--store", "{clips}"], "is a file, not a feature store"),
        (["--clips", "{clips}", "--store", "s", "--blocks", "indexes"], "no feature block named 'indexes'"),
        (["--clips", "{clips}", "--store", "s", "--signals", "raw,foreground"], "foreground"),
        (
            ["--clips", "{clips}", "--store", "s", "--limit", "0"],
            "--limit: 0: input should be greater than or equal to 1",
        ),
        (["--clips", "{clips}", "--store", "s", "--recipe", "rural"], "no recipe 'rural'"),
        (
            ["--clips", "{clips}", "--store", "s", "--max-error-rate", "5"],
            "--max-error-rate: 5.0: input should be less than or equal to 1",
        ),
    ],
)
def test_wrong_usage_names_what_is_wrong_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    clips = write_noise(tmp_path / "audio", 1)
    (tmp_path / "empty").mkdir()
    given = [argument.format(clips=clips, folder=tmp_path) for argument in arguments]
    assert main(["extract", *given]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_interrupted_then_killed_then_repeated_gives_the_undisturbed_table(tmp_path: Path) -> None:
    clips = write_noise(tmp_path / "audio", 300, seconds=1.0)
    store, undisturbed = tmp_path / "store", tmp_path / "undisturbed"
    for disturbance, parts in ((signal.SIGINT, 3), (signal.SIGKILL, 5)):
        process = subprocess.Popen(command(clips, store), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        wait_for_parts(store, parts, process)
        process.send_signal(disturbance)
        _, stderr = process.communicate(timeout=300)
        if disturbance == signal.SIGINT:
            assert process.returncode == 130, stderr
            assert "To resume: acoustic-env extract" in stderr
            assert "Traceback" not in stderr
        assert 0 < rows(store).num_rows < 900, "the run was not disturbed in the middle"
    for place in (store, undisturbed):  # on the tests' cluster, which saves two starts of Ray
        extract(ExtractSettings(clips=str(clips), store=str(place), blocks=BLOCKS))
    assert rows(store).equals(rows(undisturbed))
    assert main(["store", "verify", str(store), "--clips", str(clips)]) == 0


@pytest.mark.slow
def test_one_cpu_is_enough(tmp_path: Path) -> None:
    clips = write_noise(tmp_path / "audio", 6)
    pinned = ["taskset", "-c", "0", *command(clips, tmp_path / "store", "--json")]
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"] == 6
    assert "1 CPUs" in done.stderr


def test_frames_named_alone_or_by_a_bundle_have_the_options_of_the_recipe() -> None:
    recipe = Recipe(name="r", signals=("raw",), blocks={"logmel": {"n_mels": 32, "frames": True}})
    settings = ExtractSettings(clips="clips.csv", store="store")
    _, frames = resolve_blocks(settings, recipe)
    [named] = resolve_blocks(settings.replace(blocks=("logmel_frames",)), recipe)
    bundled = recipe.replace(blocks={"logmel_frames": recipe.block_options("logmel_frames")})
    [extracted] = resolve_blocks(settings, bundled)
    assert frames.spec.name == named.spec.name == extracted.spec.name == "logmel_frames"
    assert frames.fingerprints == named.fingerprints == extracted.fingerprints
