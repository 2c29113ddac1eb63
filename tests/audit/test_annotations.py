"""Annotation files, journals and options of earlier releases: read with a note, or refused with the new name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA, check_annotations
from acoustic_env.audit.listen import Session
from acoustic_env.audit.reannotate import read_answers
from acoustic_env.audit.table import read_table, write_table
from acoustic_env.options import ReannotateSettings
from tests.audit.generated import listen
from tests.audit.test_listen import ROWS, SAMPLE, SAMPLE_ID, answer

NEW = check_annotations(listen(SAMPLE, np.ones(120, dtype=bool), {"ada": 1.0}, 0), "annotations")
OLD = NEW.rename_columns({"annotator": "listener", "answer": "verdict"})


def test_columns_with_old_names_are_read_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_annotations(OLD, "old.parquet") == NEW
    note = capsys.readouterr().err
    assert note.startswith("acoustic-env: old.parquet: ")
    assert "listener as annotator, verdict as answer" in note
    check_annotations(NEW, "new.parquet")
    assert not capsys.readouterr().err


def test_a_journal_with_old_names_goes_on_under_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "annotations.csv")
    with Session(ROWS, SAMPLE_ID, out) as session:
        session.record(answer(0, "wrong", note="rain"))
        journal = Path(session.journal_url)
    old = journal.read_text().replace('"annotator"', '"listener"').replace('"answer": "', '"verdict": "')
    assert json.loads(old.splitlines()[1])["verdict"] == "wrong"
    journal.write_text(old)
    with Session(ROWS, SAMPLE_ID, out) as session:
        session.record(answer(1, "right"))
        assert session.annotations()["answer"].to_pylist() == ["wrong", "right"]
    assert journal.read_text().startswith(old)
    assert "listener as annotator, verdict as answer" in capsys.readouterr().err


def test_a_labels_folder_with_verdicts_is_read_and_then_superseded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ReannotateSettings(clips="clips", store="store", bundle="bundle", versions=str(tmp_path))
    write_table(SAMPLE, str(tmp_path / "samples" / "0001-x.parquet"))
    write_table(OLD, str(tmp_path / "verdicts.parquet"))
    assert read_answers(settings)[0] == NEW
    assert "verdicts.parquet" in capsys.readouterr().err
    kept = read_table(str(tmp_path / "annotations.parquet"))
    assert kept.column_names == ANNOTATION_SCHEMA.names
    assert read_answers(settings)[0] == NEW
    assert not capsys.readouterr().err
