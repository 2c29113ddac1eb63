"""Every shell and Python example of the documentation works as shown; `pages` has the rules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acoustic_env.cli import build_parser
from tests.docs.pages import DEMO, NOT_RUN, PAGES, ROOT, RUN, SHOWN, Block, blocks, normalized


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(block: Block, folder: Path) -> str:
    """Run a block and return what it printed."""
    command = [sys.executable, "-c", block.text] if block.language == "python" else ["bash", "-euc", block.script()]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "example_package"), str(folder)]),
        "ACOUSTIC_ENV_WEIGHTS": str(folder / "weights"),
        "COLUMNS": "120",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{block.text}\nended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that `acoustic-env demo` leaves, and what it printed: of fewer clips than by default, to save time."""
    folder = tmp_path_factory.mktemp("demo")
    printed = run(Block("bash", "", f"{DEMO} --num-clips 96"), folder)
    return folder / "demo-out", printed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), "a fence that the tests do not read"
    for block in found:
        assert block.language in RUN | SHOWN, f"```{block.language}"
        if block.language in RUN and not block.runs and not block.file:
            assert len(block.title) > len(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_accepted_by_the_parser(page: Path) -> None:
    parser = build_parser()
    for block in blocks(page):
        if block.language in ("bash", "console", "text") and not block.title.endswith("needs the example package"):
            for arguments in block.commands():
                parser.parse_args(arguments)


@pytest.mark.parametrize("page", ["README.md", "cluster/README.md", "CONTRIBUTING.md"])
def test_every_link_outside_the_site_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]


def test_the_first_screen_of_the_readme_names_what_runs_on_a_fresh_machine_and_ci_runs_its_test() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text[: text.index("make test") + 100].splitlines()
    assert len(first) < 30
    named = [line.split("#")[0].strip() for line in first if line.startswith("make ")]
    assert named == ["make demo", "make test"]
    assert named[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {command.split()[1] for command in named} <= set(targets)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [p for p in PAGES if any(block.runs for block in blocks(p))], ids=name)
def test_the_examples_of_a_page_run_as_shown(page: Path, tmp_path: Path, demo: tuple[Path, str]) -> None:
    left, printed = demo
    shutil.copytree(left, tmp_path / "demo-out")
    for block in blocks(page):
        if block.file and not block.text.startswith("--8<-- "):
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
        if not block.runs:
            continue
        output = printed if block.script().strip() == DEMO else run(block, tmp_path)
        lines = {normalized(line) for line in output.splitlines()}
        missing = (
            [line for line in block.output() if normalized(line) not in lines] if block.language == "console" else []
        )
        assert not missing, f"{block.script()}\ndoes not print\n" + "\n".join(missing) + f"\nbut\n{output[-6000:]}"
