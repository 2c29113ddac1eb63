"""What a cluster of our own asks Ray for."""

from __future__ import annotations

import pytest

from acoustic_env.pipeline import cluster


@pytest.mark.parametrize(("wheel", "uses_gpus"), [("2.13.0+cpu", False), ("2.13.0", True), ("2.13.0+cu130", True)])
def test_a_pytorch_for_processors_leaves_the_machines_gpus_alone(
    monkeypatch: pytest.MonkeyPatch, wheel: str, uses_gpus: bool
) -> None:
    monkeypatch.setattr(cluster, "version", lambda _: wheel)
    assert cluster.torch_has_cuda() is uses_gpus
