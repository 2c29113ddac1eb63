"""The report said "test clips were not looked at" of figures drawn from any list, a test list among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import write_clips
from acoustic_env.explain.explain import explain
from acoustic_env.explain.material import gather
from acoustic_env.explain.plot import read_index, write_index
from acoustic_env.models.bundle import Bundle
from tests.models.conftest import Disk, disk  # noqa: F401  the fixture

PROVEN = "no test clip is among them"


@pytest.fixture
def trained(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> tuple[Disk, str]:  # noqa: F811
    """A bundle trained on clips 0 to 239; no chapter of the explanation, only its index."""
    monkeypatch.setattr("acoustic_env.explain.explain.CHAPTERS", {})
    disk.recipe = disk.write_recipe(
        split={"folds": 5, "validation_folds": [3], "test_folds": []}, blocks={"indices": {}}
    )
    whole = disk.table()
    write_clips(whole.slice(0, 240), disk.clips)
    bundle = str(disk.folder / "bundle")
    study = ["--clips", disk.clips, "--store", disk.store, "--recipe", disk.recipe]
    assert main(["train", *study, "--model", "logistic", "--out", bundle]) == 0
    write_clips(whole.slice(240), str(disk.folder / "test.parquet"))
    return disk, bundle


def said(where: Disk, bundle: str, clips: pa.Table) -> str:
    """What the index of an explanation, and so the report, says of test clips."""
    folder = where.folder / "explained"
    folder.mkdir(exist_ok=True)
    material = gather(Bundle.load(bundle), clips, where.feature_store(), lambda _: None)
    explain(material, folder, lambda _: None)
    return str(read_index(str(folder))[1]["test_clips"])


def test_of_the_list_trained_on_it_is_proven_that_no_test_clip_is_among_them(trained: tuple[Disk, str]) -> None:
    place, bundle = trained
    assert PROVEN in said(place, bundle, place.table())


def test_a_list_with_another_clip_is_not_the_list_trained_on(trained: tuple[Disk, str]) -> None:
    place, bundle = trained
    more = pa.concat_tables([place.table(), pa.parquet.read_table(place.folder / "test.parquet").slice(0, 4)])
    found = said(place, bundle, more)
    assert PROVEN not in found
    assert "was learned from" in found  # only the clips that were are taken


def test_of_a_list_the_model_has_not_seen_the_record_of_evaluations_is_asked(trained: tuple[Disk, str]) -> None:
    place, bundle = trained
    test = str(place.folder / "test.parquet")
    clips = replace(place, clips=test).table()
    assert said(place, bundle, clips) == "no record of the bundle says whether they are test clips"
    assert main(["evaluate", "--bundle", bundle, "--clips", test, "--store", place.store]) == 0
    assert "these are the test clips of evaluation 1" in said(place, bundle, clips)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (
            {"which_clips": "60 clips", "test_clips": "these are the test clips of evaluation 1"},
            "the test clips of evaluation 1.",
        ),
        ({"which_clips": "60 clips"}, "whether test clips are among them is not on record."),
    ],
)
def test_the_page_repeats_what_the_explanation_knew(tmp_path: Path, about: dict[str, str], expected: str) -> None:
    from acoustic_env.explain.plot import Plot
    from acoustic_env.explain.style import new_figure

    figure = new_figure(2, 2)
    figure.subplots().plot([0, 1])
    drawn = Plot("one", "A section", "Title", "Sentence.", "Alt text", figure, pa.table({"x": [1]}))
    write_index(tmp_path, [drawn.save(tmp_path)], about)
    page = tmp_path / "report.html"
    assert main(["report", "--explain", str(tmp_path), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert expected in text
    assert "were not looked at" not in text
