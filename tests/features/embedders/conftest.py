"""Caches of weights for tests: empty, with the real YAMNet, and with seeded SavedModels of the published form."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from acoustic_env.features.embedders.weights_cache import ENVIRONMENT, WeightsCache
from acoustic_env.features.embedders.weights_fetch import fetch, prepare
from acoustic_env.features.embedders.weights_registry import weights_source


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache, in force for this test."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def _real_yamnet(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real-yamnet")
    for name in ("yamnet-tflite", "yamnet-classes"):
        fetch(weights_source(name), WeightsCache(str(folder)), str(test_data / "weights"))
    return folder


@pytest.fixture
def real_yamnet(_real_yamnet: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the real int8 YAMNet, in force for this test."""
    monkeypatch.setenv(ENVIRONMENT, str(_real_yamnet))
    return _real_yamnet


@pytest.fixture(scope="session")
def savedmodel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with SavedModels in TF-Hub's form and seeded weights, converted."""
    pytest.importorskip("tensorflow_hub", reason="needs the extra `tensorflow`")
    from tests.features.embedders import seeded_savedmodel

    folder, archives = tmp_path_factory.mktemp("savedmodels"), tmp_path_factory.mktemp("archives")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ENVIRONMENT, str(folder))
        writers = {"yamnet-tfhub": seeded_savedmodel.write_yamnet, "vggish-tfhub": seeded_savedmodel.write_vggish}
        for name, write in writers.items():
            archive = archives / weights_source(name).file_name
            write(archive)
            sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
            fetch(weights_source(name), WeightsCache(), str(archive), sha256)
            archive.unlink()
            assert prepare(name) is None
    return folder


@pytest.fixture
def savedmodels(savedmodel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache with seeded SavedModels, in force for this test."""
    monkeypatch.setenv(ENVIRONMENT, str(savedmodel_cache))
    return savedmodel_cache
