"""pyproject.toml has ranges, constraints.txt one version of each that lies in its range."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from acoustic_env.errors import UsageError
from acoustic_env.features import registry

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def requirements() -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    wanted = [Requirement(text) for text in texts]
    linux = {**default_environment(), "platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}
    return [one for one in wanted if one.marker is None or one.marker.evaluate(linux)]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for wanted in requirements():
        pin = pinned[canonicalize_name(wanted.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), f"{wanted}: {exact}"


def test_only_the_makefile_the_workflows_and_the_image_pin_exact_versions() -> None:
    assert not [one for one in requirements() if any(part.operator == "===" for part in one.specifier)]
    assert [one.name for one in requirements() if any(part.operator == "==" for part in one.specifier)] == [
        "panns-inference",
        "tensorflow",
    ]
    for place in ("Makefile", "cluster/Dockerfile", ".github/workflows/ci.yml"):
        assert "constraints.txt" in (ROOT / place).read_text(), place


def test_a_missing_library_of_the_reference_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "maad" else True)
    with pytest.raises(UsageError, match=r"maad are not installed: pip install 'acoustic-env\[reference\]'"):
        registry.make_block("indices", "reference")
    assert registry.make_block("indices", "fast").name == "indices"
