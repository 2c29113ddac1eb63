"""`train --out` over a bundle erased its record of test evaluations; the third choice by it looked like a first.

The record belongs to the path: a new bundle there carries the evaluations of the weights that it replaces.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acoustic_env.cli import main
from acoustic_env.models.bundle import Bundle
from tests.models.conftest import Disk, disk  # noqa: F401  the fixture


def train(where: Disk, model: str, *options: str) -> str:
    bundle = str(where.folder / "bundle")
    study = ["--clips", where.clips, "--store", where.store, "--recipe", where.recipe]
    assert main(["train", *study, "--model", model, *options, "--out", bundle]) == 0
    return bundle


def evaluate(where: Disk, bundle: str, *options: str) -> int:
    return main(["evaluate", "--bundle", bundle, "--clips", where.clips, "--store", where.store, *options])


def test_training_over_a_bundle_keeps_the_record_of_test_evaluations_with_their_weights(
    disk: Disk,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = train(disk, "logistic")
    assert evaluate(disk, bundle) == 0
    first = json.loads(Path(bundle, "metadata.json").read_text())
    capsys.readouterr()
    train(disk, "xgboost")
    said = capsys.readouterr().err
    assert "1 test evaluation of earlier weights at this path is kept on record" in said
    kept = json.loads(Path(bundle, "metadata.json").read_text())
    assert kept["weights_sha256"] != first["weights_sha256"]
    assert [one.weights for one in Bundle.load(bundle).test_evaluations] == [first["weights_sha256"]]
    assert Bundle.load(bundle).test is None  # what the last evaluation found was of other weights
    assert evaluate(disk, bundle, "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["test_evaluation"] == 2
    assert json.loads(shown.out)["earlier_weights"] == 1
    assert "test evaluation 2 of this bundle (1 earlier on this set" in shown.err
    assert "1 of them of earlier weights at this path" in shown.err
    assert [one.weights for one in Bundle.load(bundle).test_evaluations] == [
        first["weights_sha256"],
        kept["weights_sha256"],
    ]


def test_the_same_weights_trained_again_keep_what_was_found_with_them(disk: Disk) -> None:  # noqa: F811
    bundle = train(disk, "logistic")
    assert evaluate(disk, bundle) == 0
    before = Bundle.load(bundle)
    train(disk, "logistic")
    after = Bundle.load(bundle)
    assert before.test is not None
    assert (after.test_evaluations, after.test) == (before.test_evaluations, before.test)


def test_a_bundle_saved_twice_does_not_count_its_evaluations_twice(disk: Disk) -> None:  # noqa: F811
    bundle = train(disk, "logistic")
    assert evaluate(disk, bundle) == 0
    Bundle.load(bundle).save(bundle)
    assert len(Bundle.load(bundle).test_evaluations) == 1


def test_an_evaluation_of_weights_that_were_replaced_meanwhile_is_recorded_as_theirs(disk: Disk) -> None:  # noqa: F811
    from acoustic_env.models.learn import evaluate_bundle

    place = train(disk, "logistic")
    loaded = Bundle.load(place)
    judged, clips = evaluate_bundle(loaded, disk.table(), disk.feature_store(), lambda _: None)
    train(disk, "xgboost")
    loaded.record_evaluation(place, clips, judged)
    now = Bundle.load(place)
    assert [one.weights for one in now.test_evaluations] == [loaded.weights_sha256]
    assert now.test is None


def test_a_record_that_cannot_be_read_is_not_overwritten(
    disk: Disk,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = train(disk, "logistic")
    Path(bundle, "evaluations.json").write_text('[{"time": ')
    study = ["--clips", disk.clips, "--store", disk.store, "--recipe", disk.recipe]
    assert main(["train", *study, "--model", "logistic", "--out", bundle]) == 2
    said = capsys.readouterr().err
    assert "evaluations.json" in said
    assert "test evaluations" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_report_tells_evaluations_of_earlier_weights_from_those_of_the_bundle(disk: Disk) -> None:  # noqa: F811
    bundle = train(disk, "logistic")
    assert evaluate(disk, bundle) == 0
    train(disk, "xgboost")
    page = disk.folder / "report.html"
    assert main(["report", "--bundle", bundle, "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "was not evaluated on test clips since it was trained" in text
    assert "earlier weights" in text
    assert "kept no curves" not in text
