"""What the ranking believes of a clip does not depend on the label the clip is given.

The second round learned from labels softened by models that had learned from the judged clip's own label, and the
weights of the scorers and the calibration of tag scores were fitted to it: flipping the labels of one fold moved
what was believed of that very fold.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit.rank import prepare, rank_exclusive, rank_multilabel
from acoustic_env.audit.ranking import scorer_names
from acoustic_env.config import AuditSettings
from tests.audit.planted import plant_errors

CLIPS = 200


def probabilities(tables: Iterable[pa.Table]) -> dict[tuple[str, str], np.ndarray]:
    """P(class) [clips] behind the quality and behind every scorer's score, by class and column."""
    found = {}
    for whole in tables:
        for label in whole.column("label").unique().to_pylist():
            table = whole.filter(pa.compute.equal(whole.column("label"), label)).sort_by("clip_id")
            given = table.column("given").to_numpy(zero_copy_only=False)
            for name in ["quality", *scorer_names(table)]:
                score = table.column(name).to_numpy()
                found[label, name] = np.where(given, score, 1.0 - score)
    return found


def assert_blind(before: Iterable[pa.Table], after: Iterable[pa.Table], held: np.ndarray) -> None:
    """The flipped clips are judged as before; others, which learn from them, are not."""
    one, two = probabilities(before), probabilities(after)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name][held], two[name][held], atol=1e-6, err_msg=str(name))
    assert any(np.abs(one[name][~held] - two[name][~held]).max() > 1e-3 for name in one)


def scene(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, classes, CLIPS)
    x = (np.eye(classes)[truth] @ rng.normal(0, 2, (classes, 8)) + rng.normal(0, 1.5, (CLIPS, 8))).astype(np.float32)
    tags = np.clip(0.6 * np.eye(classes)[truth] + 0.4 * rng.random((CLIPS, classes)), 0, 1)
    return x, plant_errors(truth, 0.15, rng)[0], tags


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("whole_fold", [True, False])
def test_the_given_labels_of_a_fold_do_not_move_what_is_believed_of_it(classes: int, whole_fold: bool) -> None:
    x, given, tags = scene(classes)
    settings = AuditSettings(folds=3, neighbors=10)
    clips = prepare([f"clip{i:04d}" for i in range(CLIPS)], x, given, np.arange(CLIPS), settings, tags={"tags": tags})
    held = clips.folds == 1 if whole_fold else np.arange(CLIPS) == 17
    flipped = np.where(held, (given + 1) % classes, given)
    names = [f"class {k}" for k in range(classes)]
    before, after = (rank_exclusive(clips, labels, names, settings)[0] for labels in (given, flipped))
    assert_blind([before], [after], held)


@pytest.mark.slow
def test_the_same_holds_for_every_class_of_a_multi_label_study() -> None:
    x, first, tags = scene(3)
    given = np.eye(3, dtype=bool)[first] | (np.random.default_rng(5).random((CLIPS, 3)) < 0.1)
    settings = AuditSettings(folds=3, neighbors=10)
    clips = prepare([f"clip{i:04d}" for i in range(CLIPS)], x, given, np.arange(CLIPS), settings, tags={"tags": tags})
    held = clips.folds == 2
    flipped = given ^ held[:, None]
    before, after = (
        [table for table, _ in rank_multilabel(clips, labels, ["rain", "wind", "owl"], settings)]
        for labels in (given, flipped)
    )
    assert_blind(before, after, held)
