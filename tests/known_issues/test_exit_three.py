"""Exit 3 read "stopped by an error", printed no record with --json, and was repeated for nothing.

Lists with permanent failures were said to be held "already"; a run on a wrong bucket went through the whole list before
it said so; KubeRay's backoffLimit started a new cluster for a run that had ended as it will end again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import yaml

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.errors import TooManyFailures
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract
from acoustic_env.pipeline.record import RunRecord
from acoustic_env.pipeline.watch import MIN_FAILURES, allowed_of_pending, check_failures, too_many_fail
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import ERROR_SCHEMA

CLUSTER = Path(__file__).parents[2] / "cluster"


def clips_of_which_fail(folder: Path, good: int, bad: int) -> Path:
    """A clip list whose first clips are sound and whose last ones are text."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(good + bad):
        path = folder / f"{i}.wav"
        if i < good:
            soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, 16_000), 16_000)
        else:
            path.write_bytes(b"<html>no such bucket</html>")
        rows.append({"clip_id": f"c{i:04d}", "uri": str(path), "labels": [], "group": f"g{i}", "source": "test"})
    write_clips(clip_table(rows), str(folder / "clips.parquet"))
    return folder / "clips.parquet"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_record_comes_first_then_the_judgment_and_a_second_run_says_what_failed_for_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = clips_of_which_fail(tmp_path / "audio", good=4, bad=2)
    store = str(tmp_path / "store")
    command = ["extract", "--clips", str(clips), "--store", store, "--blocks", "placeholder"]
    assert main([*command, "--json"]) == 3
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["finished"], record["failed"], record["stopped"]) == (6, 2, "")
    assert record["pairs"] == {"placeholder": 18}
    assert {"decode", "prepare", "placeholder", "write"} == set(record["seconds"]) - {"wall"}
    assert "2 of 6 clips" in captured.err
    assert "stopped by an error" not in captured.err

    assert main(command) == 3
    captured = capsys.readouterr()
    assert "holds everything" not in captured.out
    assert "2 failed for good in earlier runs" in captured.out
    assert "--retry-errors" in captured.err

    assert main([*command, "--max-error-rate", "0.5"]) == 0
    assert "2 failed for good in earlier runs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_list_of_files_that_are_no_audio_is_stopped_early_and_what_is_done_is_kept(tmp_path: Path) -> None:
    page, many = tmp_path / "page.wav", 5000
    page.write_bytes(b"<html>no such bucket</html>")
    clips = clip_table([{"clip_id": f"c{i:04d}", "uri": str(page), "labels": []} for i in range(many)])
    settings = ExtractSettings(clips="list", store=str(tmp_path / "store"), blocks=("placeholder",))
    with pytest.raises(TooManyFailures, match=r"stopped after \d+ of 5000 clips.*Most often not_audio") as stopped:
        extract(settings, clips=clips)
    assert stopped.value.early
    store = FeatureStore(settings.store)
    tried = store.errors().num_rows
    assert MIN_FAILURES <= tried < many
    (run,) = store.runs()
    assert run["stopped"].startswith("stopped after")
    assert run["left"] == many - tried
    time.sleep(2)
    assert store.errors().num_rows == tried, "nothing goes on after the end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allowed", "runs"),
    [(0.05, 100), *(pytest.param(rate, 1000, marks=pytest.mark.slow) for rate in (0.01, 0.05, 0.3))],
)
def test_a_list_that_fails_at_exactly_the_allowed_rate_is_stopped_early_in_at_most_one_run_of_twenty(
    allowed: float, runs: int
) -> None:
    rng = np.random.default_rng(23)
    clips, step = 2000, 10
    stopped = 0
    for _ in range(runs):
        failures = np.cumsum(rng.random(clips) < allowed)[step - 1 :: step]
        stopped += any(too_many_fail(allowed, step * i, int(failed)) for i, failed in enumerate(failures, 1))
    print(f"stopped early: {stopped} of {runs} runs at the allowed rate of {allowed:g}")
    assert stopped / runs <= 0.05


@pytest.mark.parametrize(("rate", "latest"), [(1.0, 120), (0.5, 250), (0.2, 800)])
def test_a_list_that_fails_far_more_often_than_allowed_is_stopped_soon(rate: float, latest: int) -> None:
    rng = np.random.default_rng(23)
    finished = failed = 0
    while not too_many_fail(0.05, finished, failed, in_work=100):
        finished, failed = finished + 10, failed + int(rng.binomial(10, rate))
    assert finished <= latest


def test_failures_of_earlier_runs_do_not_stop_the_clips_that_are_left() -> None:
    assert allowed_of_pending(0.05, clips=1000, pending=50, failed_before=200) == 0.05
    assert allowed_of_pending(0.05, clips=1000, pending=10, failed_before=0) == 5.0, "all of these may fail"


def test_kubernetes_does_not_repeat_a_run_that_would_end_the_same() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert job["spec"]["backoffLimit"] == 0, "a RayJob's retries do not look at the exit code"
    schedule = next(yaml.safe_load_all((CLUSTER / "base" / "schedule.yaml").read_text()))
    work = schedule["spec"]["jobTemplate"]["spec"]
    (rule, *_) = work["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert {2, 3, 4, 5} <= set(rule["onExitCodes"]["values"])
    assert rule["onExitCodes"]["containerName"] == work["template"]["spec"]["containers"][0]["name"]
    assert work["template"]["spec"]["restartPolicy"] == "Never", "which a podFailurePolicy requires"


@pytest.mark.parametrize(
    ("source", "advice"),
    [("/data/a.wav", "--drop-missing NEW.parquet"), ("tar://a.wav::/data/s.tar", "clips from-tar, from-parquet. ")],
)
def test_the_advice_for_audio_that_is_gone_can_be_followed(source: str, advice: str) -> None:
    """`--drop-missing` looks for files; it keeps the clips whose shard is there without them."""
    error = {"clip_id": "a", "source": f"{source} (whole file)", "code": "not_found", "message": "gone; is it there?"}
    errors = pa.Table.from_pylist([error], ERROR_SCHEMA)
    record = RunRecord({}, {}, 1, pending=1, failed_on_list=1)
    with pytest.raises(TooManyFailures) as refused:
        check_failures(record, errors, ExtractSettings(clips="list.csv", store="store"))
    assert advice in str(refused.value)
    assert "not_found: gone; is it there. " in str(refused.value)
