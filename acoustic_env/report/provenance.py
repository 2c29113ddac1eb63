"""The page's last section: settings, fingerprints, versions and hashes, enough to make it all again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from acoustic_env.models.bundle import Bundle
from acoustic_env.report.markup import Html, table, tag
from acoustic_env.report.page import Section
from acoustic_env.store.feature_store import FeatureStore


def provenance_section(
    inputs: Mapping[str, str], files: Mapping[str, bytes], store: FeatureStore | None, bundle: Bundle | None
) -> Section:
    """What the page was made from.

    Args:
        inputs: option -> what was given.
        files: option -> content of the files among them, for their hashes.
        store, bundle: where given.
    """
    section = Section("Provenance")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    rows = [(f"--{name}", value, _code(hashes.get(name))) for name, value in inputs.items()]
    section.add(table("Made from", ("option", "given", "SHA-256"), rows))
    if bundle is not None:
        section.add(*_bundle(bundle))
    if store is not None:
        section.add(*_blocks(store))
        runs = store.runs()
        if runs:
            last = runs[-1]
            section.add(_settings(f"Settings of the last run, {last.get('run_id', '')}", last.get("settings", {})))
            section.add(_versions("Versions of the last run", last.get("versions", {})))
    return section


def _code(text: str | None) -> Html | None:
    return None if text is None else tag("code", text)


def _bundle(bundle: Bundle) -> list[Html]:
    rows: list[tuple[object, ...]] = [
        ("weights, SHA-256", _code(bundle.weights_sha256)),
        ("training and validation clips", _code(bundle.training_hash)),
    ]
    rows += [
        (f"features {block}, {signal}", _code(fingerprint))
        for block, versions in bundle.fingerprints.items()
        for signal, fingerprint in versions.items()
    ]
    rows += [(f"test clips of look {number}", _code(look.clips_hash)) for number, look in enumerate(bundle.looks, 1)]
    recipe = bundle.recipe.as_json()
    return [
        table("Hashes the classifier was made with", ("of", "hash"), rows),
        _settings("Recipe of the classifier", recipe),
        _versions("Versions the classifier was trained with", bundle.versions),
    ]


def _blocks(store: FeatureStore) -> list[Html]:
    rows: list[tuple[object, ...]] = []
    for block in store.blocks():
        for version in store.fingerprints(block):
            described = {**version.parameters, **version.made_with}
            # The axes of a map are data, not settings.
            said = {key: value for key, value in described.items() if len(str(value)) <= 400}
            shown = "; ".join(f"{key} {value}" for key, value in said.items())
            rows.append((block, _code(version.fingerprint), f"{version.sample_rate} Hz", shown))
    if not rows:
        return []
    return [table("Feature blocks, weights and libraries", ("block", "fingerprint", "sound", "made with"), rows)]


def _settings(title: str, settings: Mapping[str, Any]) -> Html:
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return tag("details", tag("summary", title), tag("pre", text), open="open")


def _versions(title: str, versions: Mapping[str, str]) -> Html:
    return table(title, ("library", "version"), [(name, str(version)) for name, version in versions.items()])
