"""Commands of a journey as a person types them, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Said:
    """What a command printed.

    Attributes:
        out, err: on standard output and standard error.
    """

    out: str
    err: str

    def advice(self, start: str) -> str:
        """Return the command that a message names, from its first words to the end of its line or sentence."""
        found = re.search(rf"{re.escape(start)}[^\n;]*", self.err + self.out)
        assert found is not None, f"no advice {start!r} in:\n{self.err}{self.out}"
        return found[0].rstrip(". ")


@dataclass
class Shell:
    """A folder in which commands run; `acoustic-env` is this version's."""

    folder: Path

    def run(self, command: str, code: int = 0) -> Said:
        """Run a command, which ends with this exit code.

        Raises:
            AssertionError: it ends with another, or prints a traceback.
        """
        words = shlex.split(command)
        assert words[0] == "acoustic-env", command
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [sys.executable, "-m", "acoustic_env.cli", *words[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            check=False,
            timeout=600,
        )
        said = Said(done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        print(f"$ {command}\n{said.out}{said.err}")
        assert done.returncode == code, f"{command}: exit code {done.returncode}, not {code}:\n{said.err}"
        assert "Traceback" not in said.err
        return said
