"""The benchmark's stages `predict` and `serve`: a small classifier without weights, a real server under load."""

from __future__ import annotations

import json

import pytest

from acoustic_env.bench import classify
from acoustic_env.cli import main


@pytest.mark.slow
def test_a_classifier_without_weights_is_timed_alone_and_as_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    for name, value in {"PAIRS": 1, "WINDOWS": 2, "REQUESTS": 8, "CLIENTS": (2,)}.items():
        monkeypatch.setattr(classify, name, value)
    monkeypatch.setattr(classify, "SERVERS", {"one process": (), "wrong": ("--replicas", "2")})
    assert main(["bench", "--stages", "predict,serve", "--num-clips", "1", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    predict, [load] = found["predict"], found["serve"]
    assert predict["classifier"] == classify.SMALL
    assert predict["window_s"] == 5.0
    assert predict["ratio"] == pytest.approx(predict["command_s"] / predict["import_torch_s"])
    assert 0 < predict["alone_s"] < predict["command_s"]
    assert (load["server"], load["clients"]) == ("one process", 2)
    assert load["requests_per_s"] > 0
    assert 0 < load["p50_s"] <= load["p95_s"] <= load["p99_s"]
    assert "left out: " in printed.err
    assert "add --ray" in printed.err
