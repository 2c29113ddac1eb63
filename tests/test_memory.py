"""How much memory a process has needed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import numpy as np
from acoustic_env.memory import peak_memory
before = peak_memory()
np.ones(200 << 17)
print(before, peak_memory())
"""


def test_the_peak_remembers_what_was_freed() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after = (int(text) / 2**20 for text in done.stdout.split())
    assert 190 < after - before < 210  # MiB
