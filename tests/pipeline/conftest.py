"""Machines with networks and disks of their own, for the tests that need them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.raylets import Machine, machines, plug


@pytest.fixture
def own_machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Machines for a head and two workers, whose slowed runs wait at the gate `tmp_path / "gate"`."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "pgrep"))):
        pytest.skip("nodes with networks and disks of their own need Linux, root, and the commands of its namespaces")
    gate = tmp_path / "gate"
    gate.mkdir()
    try:
        probe = Machine(1, 1, gate)
        try:
            plug(probe, probe)
        finally:
            probe.stop()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nodes with networks and disks of their own cannot be made here: {error}")
    with machines(2, gate) as found:
        yield found
