"""Fenced blocks of the documentation, and the rules by which they run.

    ```bash                        runs; must end with 0
    ```console                     commands after "$ " run; each line of output shown must appear (numbers may differ)
    ```python                      runs in a process of its own
    ```yaml title="study.yaml"     is written to that file, of any language
    ```bash title="Not run by the tests: needs a cluster"    is only parsed

All blocks of a page run in order in one folder, which holds what `acoustic-env demo` leaves.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
RUN: Final = frozenset({"bash", "console", "python"})
SHOWN: Final = frozenset({"text", "yaml", "json", "csv", "toml", "python"})
DEMO: Final = "acoustic-env demo"
NOT_RUN: Final = "Not run by the tests: "
FENCE: Final = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
JOBS: Final = {
    "extract_features.py": "extract",
    "train_classifier.py": "train",
    "audit_labels.py": "audit rank",
    "reannotate.py": "reannotate",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its title ("" without one) and its text."""

    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether the tests run the block."""
        return self.language in RUN and not self.title.startswith(NOT_RUN) and not self.file

    @property
    def file(self) -> str:
        """The file that the block is written to; "" for none."""
        return self.title if re.fullmatch(r"[\w./-]+\.\w+", self.title) else ""

    def script(self) -> str:
        """Return the shell commands of the block."""
        if self.language != "console":
            return self.text
        if self.text.startswith(f"$ {DEMO}\n"):  # the rest is its output: it prints the commands that it runs
            return DEMO
        kept, goes_on = [], False
        for line in self.text.splitlines():
            if line.startswith("$ ") or goes_on:
                kept.append(line.removeprefix("$ "))
                goes_on = line.endswith("\\")
        return "\n".join(kept)

    def output(self) -> list[str]:
        """Return the lines of output shown, without `...`."""
        if self.script() == DEMO:
            return [line for line in self.text.splitlines()[1:] if line.strip() not in ("", "...")]
        kept, goes_on = [], False
        for line in self.text.splitlines():
            if not line.startswith("$ ") and not goes_on and line.strip() not in ("", "..."):
                kept.append(line)
            goes_on = line.endswith("\\") and (line.startswith("$ ") or goes_on)
        return kept

    def commands(self) -> list[list[str]]:
        """Return the arguments of every acoustic-env command, also of those run as a job of Ray."""
        text = re.sub(r"\\\n\s*", " ", self.text if self.script() == DEMO else self.script())
        found = []
        for line in text.splitlines():
            for start, command in [
                ("acoustic-env ", ""),
                *((f"jobs/{job} ", command) for job, command in JOBS.items()),
            ]:
                if start in line and not line.lstrip().startswith("#"):
                    words = shlex.split(line.partition(start)[2], comments=True)
                    stop = next((n for n, word in enumerate(words) if word in ("|", ">", "&", "&&", ";", "2>")), None)
                    found.append([*command.split(), *words[:stop]])
        return found


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def normalized(line: str) -> str:
    """Return a line of output without what differs from run to run: hashes, numbers, folders, spacing."""
    line = re.sub(r"\b[0-9a-f]{12,}\b", "HASH", line)
    line = re.sub(r"[-+−]?\d[\d,.]*(e-?\d+)?", "N", line)
    return " ".join(line.split())
