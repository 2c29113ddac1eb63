"""`acoustic-env bench`: pairs of both engines, as a table and as JSON."""

from __future__ import annotations

import json

import pytest

from acoustic_env.bench import clips, run
from acoustic_env.bench.classify import LoadResult, PredictResult
from acoustic_env.bench.clips import BenchClip
from acoustic_env.bench.job import Efficiency, EngineRun, JobResult
from acoustic_env.bench.run import STAGES, run_bench
from acoustic_env.bench.timing import Pair
from acoustic_env.cli import main


@pytest.mark.slow
def test_the_json_is_one_object_with_seconds_and_ratio_of_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    assert main(["bench", "--json", "--num-clips", "1", "--stages", "separation,indices"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in result["stages"]] == ["separation", "indices"]
    for stage in result["stages"]:
        assert stage["reference_s_per_clip"] > 0
        assert stage["fast_s_per_clip"] > 0
        assert stage["ratio"] == pytest.approx(stage["reference_s_per_clip"] / stage["fast_s_per_clip"])
    assert result["clips"] == 1
    assert result["source"] == "generated scenes"
    assert result["machine"]


@pytest.mark.slow
def test_every_dsp_stage_runs_on_both_engines_and_the_whole_is_faster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setattr(clips, "CLIP_SECONDS", 4.0)
    stages = [stage for stage, made in STAGES.items() if "dsp" in made]
    assert main(["bench", "--num-clips", "1", "--stages", ",".join(stages)]) == 0
    lines = capsys.readouterr().out.splitlines()
    ratios = {line[:18].strip(): line.split()[-1] for line in lines if line.endswith("x")}
    assert list(ratios) == stages
    assert float(ratios["dsp"].removesuffix("x")) > 5  # the documented ratio is measured on more than one clip


@pytest.mark.slow
def test_the_whole_dsp_comes_with_its_cost_for_clips_of_other_lengths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setattr(clips, "CLIP_SECONDS", 4.0)
    monkeypatch.setattr(run, "LENGTHS", (2.0, 8.0))
    assert main(["bench", "--num-clips", "1", "--stages", "dsp", "--json"]) == 0
    lengths = json.loads(capsys.readouterr().out)["lengths"]
    assert [length["clip_seconds"] for length in lengths] == [2.0, 8.0]
    assert 0 < lengths[0]["fast_s_per_clip"] < lengths[1]["fast_s_per_clip"]
    assert main(["bench", "--num-clips", "1", "--stages", "separation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == []


def test_an_unknown_stage_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--stages", "dps"]) == 2
    assert "'dps'; expected one of: decode, separation" in capsys.readouterr().err


def test_a_stages_ratio_is_the_median_of_pairs_on_the_same_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    seen: list[tuple[str, int]] = []
    pair = Pair(lambda clip: seen.append(("reference", id(clip))), lambda clip: seen.append(("fast", id(clip))))
    monkeypatch.setitem(STAGES, "fake", f"{__name__}:fake")
    monkeypatch.setattr(f"{__name__}.fake", lambda: pair)
    result = run_bench(["fake"], 3, 1, lambda _: None)
    assert [side for side, _ in seen] == ["reference", "fast"] * 4  # once to warm up
    assert all(seen[i][1] == seen[i + 1][1] for i in range(0, len(seen), 2))
    assert result.stages[0].stage == "fake"


def test_everything_is_printed_and_a_missing_gpu_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setattr(clips, "CLIP_SECONDS", 2.0)
    monkeypatch.setattr(run, "STAGES", {"fake": f"{__name__}:fake"})
    monkeypatch.setattr(run, "has_gpu", lambda: False)
    runs = EngineRun(205.0, 1.25, 3 << 28), EngineRun(25.0, 12.5, 1 << 29)
    job = JobResult(240, 2.0, 2, *runs, 8.2, Efficiency(960, 12.6, 14.0, 0.9))
    monkeypatch.setattr(run, "measure_job", lambda material, clips, progress: job)
    predict = PredictResult("MFCC", 2.0, 6.0, 3.0, 5.0, 0.026, 0.02)
    monkeypatch.setattr(run, "measure_predict", lambda bundle, progress: predict)
    loads = (LoadResult("one process", 8, 38.25, 0.203, 0.244, 0.251),)
    monkeypatch.setattr(run, "measure_serve", lambda bundle, progress: loads)
    assert main(["bench", "--num-clips", "1"]) == 0
    printed = capsys.readouterr()
    assert "import torch 2.00 s, predict FILE 6.00 s, ratio 3.00" in printed.out
    assert "a window of 5 s: 26.0 ms alone, 20.0 ms in a recording" in printed.out
    assert "one process                    8        38.2      203      244      251" in printed.out
    assert "whole command, s           205.0        25.0     8.2x" in printed.out
    assert "GiB per worker              0.75        0.50" in printed.out
    assert "960 clips: 12.60 clips/s; a plain loop of the same kernels 14.00: efficiency 0.90" in printed.out
    assert "PyTorch sees no GPU here: stage gpu was not run" in printed.err
    assert main(["bench", "--stages", "gpu"]) == 2
    assert "stage gpu: PyTorch sees no GPU here" in capsys.readouterr().err


def fake() -> Pair:
    """Stands in the registry for a stage of another room."""

    def nothing(_: BenchClip) -> None:
        """No work."""

    return Pair(nothing, nothing)
