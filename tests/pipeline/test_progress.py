"""Logs as JSON: one object a line, whatever writes to standard error."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from acoustic_env.cli import main
from acoustic_env.pipeline.progress import JsonLog, Progress, json_logs
from tests.known_issues.test_exit_three import clips_of_which_fail


def objects(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "event"} <= set(each) for each in found)
    return found


def test_progress_is_an_event_with_numbers() -> None:
    stream = io.StringIO()
    progress = Progress(10, JsonLog(stream))
    progress.show(10, 2)
    progress.close()
    last = objects(stream.getvalue())[-1]
    assert (last["event"], last["level"]) == ("progress", "info")
    assert (last["clips"], last["done"], last["failed"]) == (10, 10, 2)


def test_warnings_keep_their_level_and_lines_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    with json_logs():
        logging.getLogger("acoustic_env.store").warning("the lease of %s", '"a"')
    logging.getLogger("acoustic_env.store").debug("after it")
    [warning] = objects(capsys.readouterr().err)
    assert (warning["level"], warning["message"]) == ("warning", 'the lease of "a"')


def test_every_line_of_a_command_is_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = clips_of_which_fail(tmp_path / "audio", good=2, bad=0)
    command = ["extract", "--clips", str(clips), "--store", str(tmp_path / "store"), "--blocks", "placeholder"]
    assert main([*command, "--dry-run", "--log-format", "json"]) == 0
    lines = objects(capsys.readouterr().err)
    assert any("2 with something missing" in line["message"] for line in lines)
    assert main([*command, "--clips", str(tmp_path / "none.parquet"), "--log-format", "json"]) == 2
    [error] = objects(capsys.readouterr().err)
    assert (error["event"], error["level"]) == ("error", "error")
    assert "none.parquet" in error["message"]
