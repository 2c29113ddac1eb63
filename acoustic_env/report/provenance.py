"""The page's last section: settings, fingerprints, versions and hashes, enough to reproduce everything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from acoustic_env.io.location import scrub
from acoustic_env.models.bundle import Bundle
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Code, Listing, Part, Table
from acoustic_env.store.feature_store import FeatureStore


def provenance_section(
    inputs: Mapping[str, str], files: Mapping[str, bytes], store: FeatureStore | None, bundle: Bundle | None
) -> Section:
    """List the inputs of the page (option -> value, and content of files) with their hashes, settings and versions."""
    hashes = {name: Code(hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    rows = [(f"--{name}", scrub(value), hashes.get(name)) for name, value in inputs.items()]
    section = Section("Provenance", [Table("Made from", ("option", "value", "SHA-256"), rows)])
    if bundle is not None:
        section.add(Table("Hashes the classifier was made with", ("of", "hash"), _hashes(bundle)))
        section.add(_settings("Recipe of the classifier", bundle.recipe.as_json()))
        section.add(_versions("Versions the classifier was trained with", bundle.versions))
    if store is not None:
        section.add(*_blocks(store))
        for last in store.runs()[-1:]:
            section.add(_settings(f"Settings of the last run, {last.get('run_id', '')}", last.get("settings", {})))
            section.add(_versions("Versions of the last run", last.get("versions", {})))
    return section


def _hashes(bundle: Bundle) -> list[tuple[str, Code]]:
    hashes = [("clip list it learned from", bundle.learned_from)] if bundle.learned_from else []
    hashes += [("weights, SHA-256", bundle.weights_sha256), ("training and validation clips", bundle.training_hash)]
    for trained in (bundle.fingerprints, bundle.variants):
        for block, versions in trained.items():
            hashes += [(f"features {block}, {signal}", fingerprint) for signal, fingerprint in versions.items()]
    evaluations = enumerate(bundle.test_evaluations, 1)
    hashes += [(f"test clips of evaluation {number}", one.clips_hash) for number, one in evaluations]
    return [(name, Code(value)) for name, value in hashes]


def _blocks(store: FeatureStore) -> list[Part]:
    rows: list[tuple[object, ...]] = []
    for block in store.blocks():
        for version in store.fingerprints(block):
            described = {**version.parameters, **version.made_with}
            # The axes of a map are data, not settings.
            shown = "; ".join(f"{key} {value}" for key, value in described.items() if len(str(value)) <= 400)
            rows.append((block, Code(version.fingerprint), f"{version.sample_rate} Hz", shown))
    header = ("block", "fingerprint", "sample rate", "made with")
    return [Table("Feature blocks, weights and libraries", header, rows)] if rows else []


def _settings(title: str, settings: Mapping[str, Any]) -> Listing:
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return Listing(title, text)


def _versions(title: str, versions: Mapping[str, str]) -> Table:
    return Table(title, ("library", "version"), [(name, str(version)) for name, version in versions.items()])
