"""Starting went wrong badly: false causes, tracebacks for files, seconds of imports before a wrong argument was named.

Any ValueError of a local start read "no Ray cluster answers at None", an OSError of any command was a traceback, the
memory a container had in use counted as free, and `predict FOLDER` imported every library before it looked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from acoustic_env import cli
from acoustic_env.cli import main
from acoustic_env.errors import UsageError
from acoustic_env.memory import available_memory
from acoustic_env.pipeline.cluster import cluster
from tests.pipeline.test_extract import write_noise

GIB = 1 << 30
HEAVY = ("ray", "torch", "sklearn", "matplotlib", "xgboost")


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("no_ray")
def test_a_local_start_that_fails_says_so_and_names_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("object store of 7 bytes is too small")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(UsageError, match="too small") as refused, cluster(None):
        pass
    assert "does not start on this machine" in str(refused.value)
    assert "answers" not in str(refused.value)


@pytest.mark.usefixtures("no_ray")
def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr("ray.init", refuse)
    with (
        pytest.raises(UsageError, match="no Ray cluster answers at 'nowhere': nobody"),
        cluster("nowhere"),
    ):
        pass


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--wait-for-nodes", "2"], "--wait-for-nodes 2: no cluster is joined; name one with --address"),
        (["--max-workers", "0"], "acoustic-env: --max-workers: 0: input should be greater than or equal to 1"),
        (["--max-error-rate", "3"], "acoustic-env: --max-error-rate: 3.0: input should be less than or equal to 1"),
    ],
)
def test_a_wrong_value_is_named_by_its_option(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips.parquet"
    clips.touch()
    assert main(["extract", "--clips", str(clips), "--store", str(tmp_path / "store"), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied", "/data/out.parquet"), ("/data/out.parquet", "permissions")),
        (OSError(28, "No space left on device", "/data/x"), ("/data/x", "free some space")),
        (FileNotFoundError(2, "No such file or directory", "/data/in.json"), ("/data/in.json", "check the path")),
        (FileNotFoundError("The specified bucket does not exist"), ("bucket does not exist",)),
        (OSError("something else"), ("something else",)),
    ],
)
def test_an_error_of_the_filesystem_is_a_message_of_any_command(
    error: OSError, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("acoustic_env.commands.weights.run_ls", fail, raising=False)
    parser = cli.build_parser()
    monkeypatch.setattr(cli, "build_parser", lambda *_: parser)
    monkeypatch.setattr(parser, "parse_args", lambda _: type("Namespace", (), {"run": staticmethod(fail)}))
    assert main(["weights", "ls"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert all(part in text for part in expected)


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), KeyError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise error

    parser = cli.build_parser()
    monkeypatch.setattr(cli, "build_parser", lambda *_: parser)
    monkeypatch.setattr(parser, "parse_args", lambda _: type("Namespace", (), {"run": staticmethod(fail)}))
    with pytest.raises(type(error)):
        main(["weights", "ls"])


def test_an_output_that_cannot_be_written_ends_with_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_noise(tmp_path / "audio", 1)
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "clips.parquet"
    assert main(["clips", "from-folder", str(tmp_path / "audio"), "--out", str(out)]) == 2
    text = capsys.readouterr().err
    assert str(out) in text
    assert "Traceback" not in text


class TestMemoryOfAContainer:
    def test_memory_in_use_does_not_count_and_cache_that_can_be_dropped_does(self, tmp_path: Path) -> None:
        group = tmp_path / "a" / "b"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{6 * GIB}\n")
        (group / "memory.current").write_text(f"{4 * GIB}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\nactive_file 7\n")
        (tmp_path / "a" / "memory.max").write_text("max\n")
        (tmp_path / "cgroup").write_text("0::/a/b\n")
        assert available_memory(100 * GIB, tmp_path, tmp_path / "cgroup") == 3 * GIB
        (tmp_path / "a" / "memory.max").write_text(f"{5 * GIB}\n")
        (tmp_path / "a" / "memory.current").write_text(f"{5 * GIB}\n")
        assert available_memory(100 * GIB, tmp_path, tmp_path / "cgroup") == 0, "the group above is full"

    def test_the_older_layout_is_read_too(self, tmp_path: Path) -> None:
        group = tmp_path / "memory"  # in a container, the group's own folder is mounted there
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(f"{6 * GIB}\n")
        (group / "memory.usage_in_bytes").write_text(f"{4 * GIB}\n")
        (group / "memory.stat").write_text(f"inactive_file 3\ntotal_inactive_file {GIB}\n")
        (tmp_path / "cgroup").write_text("5:memory:/docker/1234\n3:cpu,cpuacct:/docker/1234\n")
        assert available_memory(100 * GIB, tmp_path, tmp_path / "cgroup") == 3 * GIB
        assert available_memory(2 * GIB, tmp_path, tmp_path / "cgroup") == 2 * GIB

    def test_a_machine_without_limits_has_what_is_free(self, tmp_path: Path) -> None:
        assert available_memory(7 * GIB, tmp_path, tmp_path / "cgroup") == 7 * GIB


MISTAKES = {
    "predict folder": (["predict", "--bundle", "{bundle}", "{folder}", "--out", "p.parquet"], "is a folder"),
    "predict missing": (["predict", "--bundle", "{bundle}", "no.wav", "--out", "p.parquet"], "no.wav: no such file"),
    "predict bundle": (["predict", "--bundle", "nob", "{folder}/clip 0.wav", "--out", "p.parquet"], "nob: no bundle"),
    "extract list": (["extract", "--clips", "no.parquet", "--store", "s"], "no.parquet: no such file"),
    "extract recipe": (["extract", "--clips", "{clips}", "--store", "s", "--recipe", "nor"], "no recipe 'nor'"),
    "extract block": (["extract", "--clips", "{clips}", "--store", "s", "--blocks", "x"], "no feature block named 'x'"),
    "extract store": (["extract", "--clips", "{clips}", "--store", "{clips}"], "clips.parquet"),
    "train list": (["train", "--clips", "no.csv", "--store", "s", "--recipe", "esc10", "--out", "o"], "no such file"),
    "train store": (
        ["train", "--clips", "{clips}", "--store", "nos", "--recipe", "esc10", "--out", "o"],
        "there is no store",
    ),
    "tune list": (["tune", "--clips", "no.csv", "--store", "s", "--recipe", "esc10", "--out", "o"], "no such file"),
    "compare list": (
        ["compare", "--clips", "no.csv", "--store", "s", "--recipe", "esc10", "--out", "o"],
        "no such file",
    ),
    "evaluate bundle": (["evaluate", "--bundle", "nob", "--clips", "{clips}", "--store", "s"], "nob: no bundle"),
    "rank list": (["audit", "rank", "--clips", "no", "--store", "s", "--recipe", "esc10", "--out", "o"], "no such"),
    "reannotate": (
        ["reannotate", "--clips", "no", "--store", "s", "--bundle", "nob", "--versions", "l"],
        "no: no such",
    ),
    "explain": (["explain", "--bundle", "nob", "--clips", "{clips}", "--store", "s", "--out", "o"], "nob: no bundle"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_wrong_with_the_arguments_is_said_before_heavy_libraries_are_imported(
    name: str, tmp_path: Path
) -> None:
    arguments, message = MISTAKES[name]
    clips = write_noise(tmp_path / "audio", 1)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "metadata.json").write_text("{}")
    places = {"clips": str(clips), "folder": str(tmp_path / "audio"), "bundle": str(tmp_path / "bundle")}
    given = [argument.format(**places) for argument in arguments]
    script = (
        "import json, sys; from acoustic_env.cli import main; code = main(json.loads(sys.argv[1])); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    code, modules = json.loads(run.stdout.splitlines()[-1])
    assert code == 2
    assert message in run.stderr
    assert [heavy for heavy in HEAVY if heavy in modules] == []
