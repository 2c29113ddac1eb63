"""The search: parallel trials over the source system's space, resumed after its driver was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from acoustic_env.audit.table import read_table, write_table
from acoustic_env.config import CLASSIFIERS, classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.models import searched
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.search_state import SearchState
from acoustic_env.models.training.loop import Diverged
from acoustic_env.models.tune import (
    Trial,
    changed_settings,
    optuna_study,
    sampler,
    score_settings,
    search,
    search_settings,
    trial_table,
)

BASE = MLPSettings(batch_size=64)


def rows(n: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6)).astype(np.float32)
    return Examples(x, (x[:, 0] + random.normal(size=n) > 0).astype(np.int64), np.arange(n))


def run(trials: int, folder: Path, kind: str = "mlp") -> list[Trial]:
    state = SearchState.open(str(folder), {"rows": "of this test"}, trials)
    return search(
        classifier_settings({"kind": kind, "seed": 23}) if kind != "mlp" else BASE, 2, rows(200, 0), rows(150, 1), state
    )


def test_a_point_of_the_space_becomes_model_settings() -> None:
    chosen = {"layers": 2, "units_0": 64, "units_1": 16, "activation": "tanh", "dropout": 0.25, "learning_rate": 3e-4}
    made = BASE.at(chosen)
    assert (made.layers, made.activation, made.dropout, made.learning_rate) == ((64, 16), "tanh", 0.25, 3e-4)
    assert made.batch_size == 64


def test_the_table_shows_every_trial_with_its_searched_settings() -> None:
    chosen = {"layers": [240], "dropout": 0.5}, {"layers": [16, 8], "dropout": 0.0}
    trials = [
        Trial(0, {}, chosen[0], 0.7, 1.0, ""),
        Trial(1, {}, chosen[1], 0.8, 1.0, ""),
        Trial(2, {}, chosen[0], None, 0.1, "RuntimeError"),
    ]
    table = trial_table(trials)
    assert table["score"].to_pylist() == [0.7, 0.8, None]
    assert table["layers"].to_pylist() == ["240", "16-8", "240"]
    assert table.column_names == ["trial", "score", "layers", "dropout", "seconds", "error"]


def test_of_a_group_of_settings_the_table_shows_those_that_were_searched(tmp_path: Path) -> None:
    trial = Trial(0, {"mixup": 0.2}, {"learning_rate": 0.1, "augment": {"mixup": 0.2, "roll": 0.0}}, 0.7, 1.0, "")
    place = str(tmp_path / "trials.csv")
    write_table(trial_table([trial]), place)
    (row,) = read_table(place).to_pylist()
    assert (row["learning_rate"], row["mixup"]) == (0.1, 0.2)
    assert "augment" not in row
    assert "roll" not in row


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_trials_stay_inside_the_source_systems_space_and_the_best_comes_first(tmp_path: Path) -> None:
    trials = run(4, tmp_path)
    assert [trial.number for trial in sorted(trials, key=lambda t: t.number)] == [0, 1, 2, 3]
    scores = [trial.score for trial in trials]
    assert all(score is not None and score > 0.6 for score in scores)
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    for trial in trials:
        assert 1 <= len(trial.chosen["layers"]) <= 5
        assert all(16 <= units <= 256 and units % 16 == 0 for units in trial.chosen["layers"])
        assert 0 <= trial.chosen["dropout"] <= 0.5
        assert 1e-4 <= trial.chosen["learning_rate"] <= 1e-2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_kind_that_is_no_network_is_searched_alike(tmp_path: Path) -> None:
    trials = run(2, tmp_path, "xgboost")
    assert [trial.error for trial in trials] == ["", ""]
    assert all(trial.score is not None and trial.score > 0.6 for trial in trials)


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSIFIERS.names() if kind != "mlp" and not CLASSIFIERS.load(kind).reads_sequences]
)
def test_every_kind_is_searched_in_its_own_space(kind: str) -> None:
    base = search_settings(classifier_settings({"kind": kind, "seed": 23}))
    study = optuna_study(sampler(base.seed, 2))
    for _ in range(2):
        trial = study.ask()
        base.search_space(trial, 6)
        chosen = changed_settings(base, trial.params)
        assert chosen
        assert set(chosen) <= set(type(base).model_fields)
        assert score_settings(base.at(trial.params), rows(200, 0), rows(150, 1), 2) > 0.6


def test_a_search_passes_over_settings_that_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.6, None, 0.7, None])

    def score(*_: Any) -> float:
        found = next(scores)
        if found is None:
            raise Diverged("the mlp diverged")
        return found

    monkeypatch.setattr(searched, "score_settings", score)
    _, best = searched.search_in_process(BASE, rows(20, 0), 2, 4)
    assert best == 0.7


def test_no_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one trial is needed"):
        run(0, tmp_path)


SCRIPT = """
import sys
from pathlib import Path
import ray
from tests.models.test_tune import run
ray.init(address=sys.argv[3], logging_level="error", log_to_driver=False)
trials = run(int(sys.argv[1]), Path(sys.argv[2]))
assert sorted(trial.number for trial in trials) == list(range(len(trials)))
print(len(trials))
"""


def _recorded(folder: Path) -> list[dict[str, Any]]:
    record = folder / "search.json"
    return json.loads(record.read_text())["ended"] if record.exists() else []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_whose_driver_is_interrupted_then_killed_goes_on_with_the_trials_it_had(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", SCRIPT, "6", str(tmp_path), address]
    before: list[dict[str, Any]] = []
    for how in (signal.SIGINT, signal.SIGKILL):
        driver = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
        deadline = time.monotonic() + 400
        while len(_recorded(tmp_path)) < len(before) + 1:
            assert driver.poll() is None, "the search ended before it could be disturbed"
            assert time.monotonic() < deadline, "no trial ended in 400 s"
            time.sleep(0.05)
        os.killpg(driver.pid, how)
        assert driver.wait() != 0
        found = _recorded(tmp_path)
        assert len(before) + 1 <= len(found) < 6
        assert found[: len(before)] == before
        before = found
    last = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr[-3000:]
    assert last.stdout.split()[-1] == "6"
    after = _recorded(tmp_path)
    assert after[: len(before)] == before
    assert len({json.dumps(trial["point"]) for trial in after}) == 6  # none is run again
