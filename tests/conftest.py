"""Fixtures every room's tests share: the real data, one Ray cluster, generated sounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# One server for the session: fsspec keeps its connections by bucket, not by endpoint.
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server

# One thread a process: two cores serve pytest, Ray and its workers.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # workers at Ray's 15 starve beside other tests


# Tests with one of these fixtures share a process of pytest-xdist: it is made once.
COSTLY = ("ray_cluster", "trained", "given", "savedmodel_cache")
# Tests with one of these run TensorFlow, in the slow tier.
SLOW = ("savedmodel_cache", "savedmodels")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of a file in one process of pytest-xdist, and all that share a costly fixture, too."""
    fixtures = getattr(item, "fixturenames", ())
    group = next((name for name in COSTLY if name in fixtures), str(item.path))
    item.add_marker(pytest.mark.xdist_group(group))
    if any(name in fixtures for name in SLOW):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real clips, lists and weights; tests that need it skip without it."""
    folder = os.environ.get("ACOUSTIC_ENV_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ACOUSTIC_ENV_TEST_DATA does not name the folder of real data")
    return Path(folder)


@pytest.fixture(autouse=True)
def fresh_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service has answered before: workers that tests make in this process would have every other test wait."""
    from acoustic_env.io import retry

    monkeypatch.setattr(retry, "_SERVICES", type(retry._SERVICES)(retry._Service))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of two CPUs for the whole session."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield
    ray.shutdown()
