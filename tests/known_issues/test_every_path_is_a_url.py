"""Every path option of every command takes any fsspec URL.

`reannotate --bundle s3://...` looked for a local folder named `s3:`, `train --out s3://...` made one, `audit listen`,
`predict --out`, `tune --out`, `--settings`, `--recipe` and others knew local paths only: the documented schedule could
not run. The walk runs every command against an S3 server with every path there.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from acoustic_env.cli import build_parser, main
from acoustic_env.commands.arguments import url
from tests.known_issues.url_walk import steps
from tests.s3 import S3Server

BASE: Final = "s3://bucket/a-walk"
PARSER: Final = build_parser()
REPOSITORY: Final = Path(__file__).parents[2]
# Options that take a text and name no file.
NO_PATHS: Final = """
address label_from group_from group_by fold_from json_key audio_column label_column id_column group_column block stages
code model stage fingerprint name relocated title host annotator approve old new version names sha256 parts splits
values suffix license glob
"""
JOBS: Final = {
    "extract_features.py": "extract",
    "train_classifier.py": "train",
    "audit_labels.py": "audit rank",
    "reannotate.py": "reannotate",
}


def actions(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                child.format_help()  # readers of clip lists add their options when they are first needed
                yield from actions(child, f"{command} {name}".strip())
        else:
            yield command, action


def paths_given(arguments: list[str]) -> tuple[str, set[str]]:
    """The command, and its path options that are given a URL."""
    namespace = PARSER.parse_args(arguments)
    commands = {command for command, _ in actions(PARSER)}
    command = max((name for name in commands if arguments[: len(name.split())] == name.split()), key=len)
    values = {a.dest: getattr(namespace, a.dest) for name, a in actions(PARSER) if name == command and a.type is url}
    return command, {name for name, value in values.items() if "s3://" in str(value)}


def walked() -> dict[str, set[str]]:
    """Command -> path options that a step of the walk gives a URL."""
    found: dict[str, set[str]] = {}
    for step in (step for part in ("first", "quick", "slow") for step in steps(part, BASE)):
        command, given = paths_given(step)
        found.setdefault(command, set()).update(given)
    return found


def test_the_walk_gives_a_url_to_every_path_option_of_every_command() -> None:
    given = walked()
    paths = [(command, action.dest) for command, action in actions(PARSER) if action.type is url]
    # Every command reads a study in the same way, so that of two is enough.
    assert not [f"{c} {name}" for c, name in paths if name not in given.get(c, ()) and name != "study"]
    assert "study" in given["config"] & given["extract"]


def test_every_option_that_takes_text_is_a_path_or_known_to_be_none() -> None:
    unknown = [
        f"{command} {action.dest}"
        for command, action in actions(PARSER)
        if action.type in (None, str)
        and action.nargs != 0
        and not action.choices
        and action.dest not in (argparse.SUPPRESS, *NO_PATHS.split())  # suppressed: an old name, refused
    ]
    assert not unknown, "give it `type=url` (commands.arguments) and a step of the walk, or name it in NO_PATHS"


def documented() -> list[list[str]]:
    """The commands of cluster/ and of the documentation that name an object store."""
    files = [*sorted((REPOSITORY / "cluster").rglob("*.*")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
    text = "\n".join(path.read_text() for path in files)
    text = re.sub(r"\\?\n[# ]+(?=--)", " ", text)
    found = []
    for line in text.splitlines():
        for start, command in [("acoustic-env ", ""), *((f"jobs/{job} ", command) for job, command in JOBS.items())]:
            if start in line and "s3://" in line:
                words = shlex.split(line.partition(start)[2].partition("`")[0])
                found.append([*command.split(), *words])
    return found


def test_every_documented_command_is_one_that_the_walk_runs() -> None:
    given = walked()
    commands = [paths_given(arguments) for arguments in documented()]
    assert {"extract", "train", "reannotate"} <= {command for command, _ in commands}
    for command, options in commands:
        assert options - {"study"} <= given[command], command


@pytest.mark.slow
@pytest.mark.timeout(1750)
def test_the_whole_program_runs_with_every_path_on_s3(s3: S3Server, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    base = f"s3://{s3.bucket}/a-walk"
    paths = {"ACOUSTIC_ENV_WEIGHTS": f"{base}/weights-cache", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**os.environ, **paths, "PYTHONPATH": str(REPOSITORY), "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "tests.known_issues.url_walk", base]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=1700, check=False
    )
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stderr[-6000:]
    assert not list(place.iterdir()), "a URL was taken for a local path"


@pytest.mark.parametrize("part", ["first", "quick", "slow"])
def test_a_bucket_that_does_not_exist_is_named_without_a_traceback(
    s3: S3Server, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"s3://no-such-bucket-{s3.bucket}/x"
    monkeypatch.setenv("ACOUSTIC_ENV_WEIGHTS", f"{base}/weights")
    for step in steps(part, base):
        assert main(step) == 2, step
        assert base.rpartition("/")[0] in capsys.readouterr().err, step
