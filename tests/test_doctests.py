"""Every example in a docstring of the package gives what it shows."""

from __future__ import annotations

import doctest
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.sample import draw_sample
from acoustic_env.cli import main
from acoustic_env.options import SampleSettings
from tests.models.conftest import CLIPS, write_sounds, write_study

PACKAGE = Path(__file__).parents[1] / "acoustic_env"
OPTIONAL = ("duckdb", "polars")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the examples: clip list, store, recipe, and a sample of its labels with answers."""
    folder = tmp_path_factory.mktemp("examples")
    write_study(folder).write_recipe(audit={"scorers": ["logistic", "neighbors"]})
    (folder / "store").rename(folder / "features")
    arguments = ["--clips", folder / "clips.parquet", "--store", folder / "features", "--recipe", folder / "study.yaml"]
    assert main(["train", *map(str, arguments), "--model", "logistic", "--out", str(folder / "bundle")]) == 0
    (write_sounds(folder / "sounds") / "bundle").rename(folder / "sound-bundle")
    study = folder / "study"
    study.mkdir()
    (study / "study.yaml").write_text(
        (folder / "study.yaml").read_text() + "paths: {clips: ../clips.parquet, store: ../features}\n"
    )
    quality = np.linspace(0.05, 0.95, CLIPS)
    own = {"clip_id": [f"clip{i:03d}" for i in range(CLIPS)], "label": ["urban", "natural"] * (CLIPS // 2)}
    ranked = pa.table({**own, "given": [True] * CLIPS, "quality": quality, "flagged": quality < 0.2})
    sample = draw_sample(ranked, SampleSettings(n=100))
    answers = [
        {"clip_id": row["clip_id"], "label": row["label"], "annotator": "Ada", "role": row["role"], "time_utc": 0}
        | {"answer": "wrong" if row["flagged"] else "right"}
        for row in sample.to_pylist()
    ]
    pq.write_table(sample, folder / "sample.parquet")
    pq.write_table(pa.Table.from_pylist(answers, ANNOTATION_SCHEMA), folder / "annotations.parquet")
    return folder


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_are_true(name: str, study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study_folder)
    report = StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for case in doctest.DocTestFinder(exclude_empty=True).find(import_module(name)):
        if not any(f"import {package}" in case.docstring and not find_spec(package) for package in OPTIONAL):
            runner.run(case, out=report.write)
    assert not runner.failures, report.getvalue()
