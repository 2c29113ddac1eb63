"""The report repeated the words of `Estimate`, which printed (nan–nan) for an interval withheld without a reason."""

from __future__ import annotations

import pytest

from acoustic_env.report.plots import interval_text
from acoustic_env.stats.intervals import Estimate, no_interval

NAN = float("nan")


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(0.912, NAN, NAN, "none"), "0.912 (no interval)"),
        (no_interval(0.912, "3 groups"), "0.912 (no interval: 3 groups, too few)"),
        (Estimate(0.912, 0.871, 0.953, "Wilson"), "0.912 (0.871–0.953)"),
    ],
)
def test_an_estimate_reads_alike_in_the_program_and_in_the_report(estimate: Estimate, said: str) -> None:
    assert str(estimate) == said
    recorded = {key: value if value == value else None for key, value in vars(estimate).items()}
    assert interval_text(recorded) == said


def test_what_was_not_defined_is_called_so() -> None:
    assert interval_text({}) == interval_text({"value": None, "low": None, "high": None}) == "not defined"
