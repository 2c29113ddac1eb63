"""The part of kustomize that the overlays use, so that they are tested where there is no kustomize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
OVERLAYS = ("base", "overlays/dev", "overlays/gpu")
Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """The manifests of a base or overlay: resources, then JSON 6902 patches, then the namespace."""
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(settings) <= {"apiVersion", "kind", "namespace", "resources", "patches"}
    found: list[Manifest] = []
    for name in settings["resources"]:
        path = folder / name
        found += render(path) if path.is_dir() else [*yaml.safe_load_all(path.read_text())]
    for patch in settings.get("patches", []):
        text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        [target] = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
        for operation in yaml.safe_load(text):
            apply(operation, target)
    if namespace := settings.get("namespace"):
        for each in found:
            each["metadata"]["namespace"] = namespace
            for subject in each.get("subjects", []):
                subject["namespace"] = namespace
    return found


def apply(operation: Manifest, target: Any) -> None:
    """Change a manifest by one operation of RFC 6902: add or replace."""
    *parents, last = operation["path"].removeprefix("/").split("/")
    for step in parents:
        target = target[int(step) if isinstance(target, list) else step]
    if isinstance(target, list) and last == "-":
        target.append(operation["value"])
        return
    key = int(last) if isinstance(target, list) else last
    if operation["op"] == "replace":
        assert target[key] is not None
    else:
        assert operation["op"] == "add"
    target[key] = operation["value"]


def pod_specs(manifest: Manifest) -> list[Manifest]:
    """Every pod a manifest describes."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "RayCluster":
        return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    return [spec["jobTemplate"]["spec"]["template"]["spec"]] if manifest["kind"] == "CronJob" else []
