"""`tune` into a folder with a search of other data or settings returned its scores; more --trials ran none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import write_clips
from acoustic_env.errors import UsageError
from acoustic_env.models.search_state import SearchState
from tests.models.conftest import Disk, Generated, disk, write_block  # noqa: F401  the fixture


def tune(where: Disk, out: Path, trials: int, *options: str, recipe: str | None = None) -> int:
    study = ["--clips", where.clips, "--store", where.store, "--recipe", recipe or where.recipe]
    return main(["tune", *study, "--trials", str(trials), *options, "--out", str(out)])


def trials_of(out: Path) -> dict[int, float]:
    rows = pa_csv.read_csv(out / "trials.csv").to_pylist()
    return {row["trial"]: row["score"] for row in rows}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_search_goes_on_with_more_trials_and_only_with_its_own_study(
    disk: Disk,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "tuned"
    assert tune(disk, out, 2) == 0
    first = trials_of(out)
    assert sorted(first) == [0, 1]

    # More trials: the two there stay as they are, one is added.
    assert tune(disk, out, 3) == 0
    more = trials_of(out)
    assert sorted(more) == [0, 1, 2]
    assert {number: more[number] for number in first} == first
    settings = [row["layers"] for row in pa_csv.read_csv(out / "trials.csv").to_pylist()]
    assert len(set(map(str, settings))) > 1  # the added trial is not the first one again

    # The same again: nothing runs.
    record = (out / "search.json").read_text()
    assert tune(disk, out, 3) == 0
    assert (out / "search.json").read_text() == record  # with each trial's seconds
    assert trials_of(out) == more
    capsys.readouterr()

    # Fewer trials than there are, and every change that alters a score, are refused before anything runs.
    assert tune(disk, out, 2) == 2
    assert "has 3 trials; give --trials 3 or more, or another --out" in capsys.readouterr().err
    model = {"layers": [16], "max_epochs": 10, "learning_rate": 0.01, "batch_size": 64}
    for changes, name, there, now in (
        ({"model": model | {"batch_size": 32}}, "fixed settings", "batch_size 64", "batch_size 32"),
        ({"model": model | {"seed": 5}}, "fixed settings", "seed 23", "seed 5"),
        ({"reduction": {"components": {"indices": 2}}}, "reduction", '"components": {}', '"indices": 2'),
        (
            {"split": {"folds": 5, "validation_folds": [2], "test_folds": [4]}},
            "training clips",
            "180 clips",
            "180 clips",
        ),
    ):
        assert tune(disk, out, 3, recipe=disk.write_recipe("other.yaml", **changes)) == 2
        said = capsys.readouterr().err
        assert "holds a search of other data or settings" in said
        for text in (name, there, now, "give another --out"):
            assert text in said
    assert tune(disk, out, 3, "--blocks", "indices") == 2
    assert "blocks: indices" in capsys.readouterr().err

    clips = disk.table()
    labels = clips["labels"].to_pylist()
    labels[0], labels[1] = labels[2], labels[3]
    column = clips.schema.get_field_index("labels")
    write_clips(clips.set_column(column, clips.schema.field("labels"), pa.array(labels)), disk.clips)
    assert tune(disk, out, 3) == 2
    assert "clips, labels and groups" in capsys.readouterr().err
    write_clips(clips, disk.clips)

    # Features of another version.
    y = np.arange(len(clips)) // 2 % 2
    write_block(disk.store, Generated("yamnet", 6, setting=1), clips["clip_id"].to_pylist(), y)
    versions = [path.name for path in Path(disk.store, "features", "yamnet").iterdir() if path.is_dir()]
    there = json.loads((out / "search.json").read_text())["identity"]["blocks"]
    other = next(version for version in versions if version not in there)
    assert tune(disk, out, 3, "--fingerprint", f"yamnet={other}") == 2
    assert f"{other} now" in capsys.readouterr().err
    assert trials_of(out) == more


def test_an_interrupted_search_goes_on_with_what_is_recorded(tmp_path: Path) -> None:
    state = SearchState.open(str(tmp_path), {"rows": "1"}, 5)
    state.ended.append({"number": 0})
    state.write()
    again = SearchState.open(str(tmp_path), {"rows": "1"}, 8)
    assert (again.ended, again.left) == ([{"number": 0}], 7)


def test_a_record_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text('{"identity":')
    with pytest.raises(UsageError, match=r"search\.json: not readable"):
        SearchState.open(str(tmp_path), {"rows": "1"}, 3)
