"""The benchmark runs on both engines, and says what it does not know."""

from __future__ import annotations

import json
import sys

import pytest

from tests.bench import __main__ as bench
from tests.bench import clips


def test_the_json_has_seconds_and_ratio_of_each_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setattr(clips, "CLIP_SECONDS", 2.0)
    monkeypatch.setattr(bench, "DSP", {name: bench.DSP[name] for name in ("separation", "logmel")})
    monkeypatch.setattr(bench, "measure_lengths", lambda clip: {})
    monkeypatch.setattr(sys, "argv", ["bench", "--stages", "dsp", "--num-clips", "1", "--json"])
    bench.main()
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["stages"]] == ["separation", "logmel"]
    assert all(one["ratio"] == pytest.approx(one["reference_s"] / one["fast_s"]) for one in found["stages"])


def test_an_unknown_stage_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--stages", "dps"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no stage named 'dps'" in capsys.readouterr().err
