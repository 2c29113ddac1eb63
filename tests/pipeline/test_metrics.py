"""Metrics cost nothing where there is no Ray; repeated requests are counted."""

from __future__ import annotations

import sys

import pytest

from acoustic_env.io.retry import retrying, take_repeats
from acoustic_env.pipeline import metrics

METRICS = [metric for metric in vars(metrics).values() if isinstance(metric, metrics.Metric)]


def test_without_ray_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for metric in METRICS:
        metric.record(1.0, "tag" if metric.tag else "")
    assert "ray" not in sys.modules


def test_repeated_requests_are_counted_once() -> None:
    take_repeats()
    answers = [ConnectionError(), ConnectionError(), "done"]

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(call, "s3://bucket/a", "read") == "done"
    assert take_repeats() == 2
    assert take_repeats() == 0
