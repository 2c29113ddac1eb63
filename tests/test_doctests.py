"""Every example in a docstring of the package gives what it shows."""

from __future__ import annotations

import doctest
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest

from tests.models.conftest import write_study

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
    """The current folder of the examples: `clips.parquet`, the store `features`, the recipe `study.yaml`."""
    folder = tmp_path_factory.mktemp("examples")
    write_study(folder)
    (folder / "store").rename(folder / "features")
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
