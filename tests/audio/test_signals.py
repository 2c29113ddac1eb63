"""The registry of signals: what is computed once, what is checked at the door, and what a new signal needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acoustic_env.audio import separate_fast, signals
from acoustic_env.audio.prepare import parameters, prepare
from acoustic_env.audio.signals import SIGNALS, Signal, check_signals
from acoustic_env.cli import main
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry
from tests import sounds


class Halved(Signal):
    """Half the foreground, as another package might add it."""

    name = "halved"
    version = 3
    needs = ("fg",)

    def parameters(self, sample_rate: int, engine: str) -> dict[str, Any]:
        return {"factor": 0.5}

    def compute(self, needed: Mapping[str, Any], sample_rate: int, engine: str) -> Any:
        return needed["fg"] * needed["fg"].dtype.type(0.5)


class Longer(Halved):
    """A faulty signal: one sample more."""

    name = "longer"

    def compute(self, needed: Mapping[str, Any], sample_rate: int, engine: str) -> Any:
        return np.pad(needed["fg"], ((0, 0), (0, 1)))


@pytest.fixture
def more_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {
        **{name: f"{kind.__module__}:{kind.__name__}" for name in SIGNALS for kind in [SIGNALS.load(name)]},
        "halved": "tests.audio.test_signals:Halved",
        "longer": "tests.audio.test_signals:Longer",
    }
    monkeypatch.setattr(signals, "SIGNALS", Registry("signals", "signal", targets))


def test_foreground_and_background_and_what_needs_them_come_from_one_separation(
    monkeypatch: pytest.MonkeyPatch, more_signals: None
) -> None:
    calls = []
    separate = separate_fast.separate_fast
    monkeypatch.setattr(separate_fast, "separate_fast", lambda *given: calls.append(1) or separate(*given))
    computed = prepare(sounds.noise(0.5)[None], 16_000, "fast", ["halved", "bg", "fg"])
    assert list(computed) == ["halved", "bg", "fg"]
    np.testing.assert_array_equal(computed["halved"], computed["fg"] / 2)
    assert len(calls) == 1


def test_a_new_signal_is_fingerprinted_by_its_name_version_and_parameters_and_by_what_it_needs(
    more_signals: None,
) -> None:
    fg = parameters(16_000, "fast", "fg")
    assert parameters(16_000, "fast", "halved") == {**fg, "signal:halved": {"version": 3, "factor": 0.5}}
    assert parameters(16_000, "fast", "bg") == fg


def test_a_signal_of_another_shape_is_refused_by_name(more_signals: None) -> None:
    with pytest.raises(ValueError, match=r"signal longer: float32\(1, 8001\), expected float32\(1, 8000\)"):
        prepare(sounds.noise(0.5)[None], 16_000, "fast", ["longer"])


def test_an_unknown_signal_in_a_recipe_is_refused_with_its_place_and_the_registered_names() -> None:
    with pytest.raises(
        UsageError, match=r"r\.yaml: signals\[1\]: no signal named 'front'; expected one of: raw, fg, bg"
    ):
        check_signals(Recipe(name="r", signals=("raw", "front")), "r.yaml")


def test_an_unknown_signal_on_the_command_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips.csv"
    clips.write_text("clip_id,uri\na,a.wav\n")
    assert main(["extract", "--clips", str(clips), "--store", str(tmp_path / "store"), "--signals", "front"]) == 2
    assert "no signal named 'front'; expected one of: raw, fg, bg" in capsys.readouterr().err
