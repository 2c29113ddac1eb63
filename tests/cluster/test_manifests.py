"""The manifests of cluster/: schemas, rights, security, and commands that exist."""

from __future__ import annotations

import copy
import gzip
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from acoustic_env import __version__
from acoustic_env.cli import build_parser
from tests.cluster.kustomize import CLUSTER, OVERLAYS, Manifest, pod_specs, render

KUBERNETES = "1.33"


@cache
def crd(folder: Path, kind: str) -> jsonschema.Draft7Validator:
    """The schema of KubeRay's kind, v1; fields it does not know are refused."""
    text = gzip.decompress((folder / "kuberay" / f"ray.io_{kind.lower()}s.yaml.gz").read_bytes())
    definition = yaml.load(text, yaml.CSafeLoader)  # 1.5 MB: the loader in Python takes half a minute
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return jsonschema.Draft7Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """A structural schema of Kubernetes as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"], **{key: found[key] for key in ("pattern",) if key in found}}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        found["additionalProperties"] = False
    return found


def validate(manifest: Manifest, folder: Path) -> None:
    """Raise where Kubernetes, with KubeRay's definitions, would refuse the manifest."""
    if manifest["apiVersion"] == "ray.io/v1":
        crd(folder, manifest["kind"]).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def scheduled() -> Manifest:
    """The RayJob that the CronJob creates."""
    [config] = [each for each in render(CLUSTER / "base") if each["kind"] == "ConfigMap"]
    job: Manifest = yaml.safe_load(config["data"]["reannotate.yaml"])
    return job


def ray_jobs() -> list[Manifest]:
    return [yaml.safe_load((CLUSTER / "rayjob.yaml").read_text()), scheduled()]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{i}")
    else:
        yield path, value


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_fits_its_schema(overlay: str, test_data: Path) -> None:
    for manifest in render(CLUSTER / overlay):
        validate(manifest, test_data)


def test_every_rayjob_fits_its_schema(test_data: Path) -> None:
    for job in ray_jobs():
        validate(job, test_data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/enableInTreeAutoscaler", True),
        ("spec/workerGroupSpecs/0/maxReplica", 3),
        ("spec/workerGroupSpecs/0/maxReplicas", "three"),
        ("spec/headGroupSpec/template/spec/containers/0/readOnlyRootFilesystem", True),
        ("spec/authOptions/mode", "password"),
    ],
)
def test_a_field_that_the_definition_does_not_know_is_refused(path: str, value: object, test_data: Path) -> None:
    [cluster] = [copy.deepcopy(each) for each in render(CLUSTER / "base") if each["kind"] == "RayCluster"]
    target: Any = cluster
    *parents, last = path.split("/")
    for step in parents:
        target = target[int(step) if isinstance(target, list) else step]
    target[last] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(cluster, test_data)


def test_an_unknown_field_of_a_cronjob_is_refused(test_data: Path) -> None:
    [job] = [each for each in render(CLUSTER / "base") if each["kind"] == "CronJob"]
    job["spec"]["concurrency"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(job, test_data)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_renders_what_the_tests_check(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", CLUSTER / overlay], capture_output=True, text=True, check=True)

    def by_name(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert by_name([*yaml.safe_load_all(done.stdout)]) == by_name(render(CLUSTER / overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_has_rights_it_does_not_need(overlay: str) -> None:
    manifests = render(CLUSTER / overlay)
    [cluster] = [each for each in manifests if each["kind"] == "RayCluster"]
    pods = [spec for each in manifests for spec in pod_specs(each)]
    containers = [container for spec in pods for container in spec["containers"]]
    for security in (
        *(container["securityContext"] for container in containers),
        cluster["spec"]["autoscalerOptions"]["securityContext"],
    ):
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "/tmp" in {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all("memory" in container["resources"]["limits"] for container in containers)


def test_the_schedule_may_create_and_read_rayjobs_and_nothing_else() -> None:
    manifests = render(CLUSTER / "base")
    roles = [each for each in manifests if each["kind"] in ("Role", "ClusterRole")]
    assert [role["rules"] for role in roles] == [
        [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    ]
    [binding] = [each for each in manifests if each["kind"].endswith("Binding")]
    assert [subject["name"] for subject in binding["subjects"]] == ["acoustic-env-scheduler"]
    accounts = {each["metadata"]["name"] for each in manifests if each["kind"] == "ServiceAccount"}
    pods = [spec for each in manifests for spec in pod_specs(each)]
    assert {spec["serviceAccountName"] for spec in pods} == accounts
    workers = [spec for spec in pods if spec["serviceAccountName"] == "acoustic-env"]
    assert all(spec["automountServiceAccountToken"] is False for spec in workers)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_file_holds_a_secret(overlay: str) -> None:
    manifests = render(CLUSTER / overlay)
    assert "Secret" not in {each["kind"] for each in manifests}
    suspicious = re.compile(r"secret|password|token|access_?key", re.IGNORECASE)
    names = [value for each in manifests for path, value in leaves(each) if path.endswith("/name")]
    assert not [name for name in names if suspicious.search(str(name))]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_come_and_go_and_the_head_does_no_work(overlay: str) -> None:
    [cluster] = [each["spec"] for each in render(CLUSTER / overlay) if each["kind"] == "RayCluster"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    gpus = [
        group["groupName"]
        for group in cluster["workerGroupSpecs"]
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    ]
    assert gpus == (["gpu"] if overlay == "overlays/gpu" else [])


def test_the_schedule_never_runs_twice_at_once() -> None:
    [job] = [each["spec"] for each in render(CLUSTER / "base") if each["kind"] == "CronJob"]
    assert job["concurrencyPolicy"] == "Forbid"
    [dev] = [each["spec"] for each in render(CLUSTER / "overlays/dev") if each["kind"] == "CronJob"]
    assert dev["suspend"] is True


def test_jobs_run_on_the_cluster_that_the_base_defines_with_options_that_exist() -> None:
    [cluster] = [each["metadata"]["name"] for each in render(CLUSTER / "base") if each["kind"] == "RayCluster"]
    for job in ray_jobs():
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster}
        program, *arguments = shlex.split(job["spec"]["entrypoint"])
        assert program == "acoustic-env"
        assert build_parser(arguments[0]).parse_args(arguments).store == "s3://BUCKET/features"


def test_images_and_releases_of_ray_agree_with_the_package() -> None:
    text = "\n".join(path.read_text() for path in sorted(CLUSTER.rglob("*")) if path.is_file())
    assert set(re.findall(r"acoustic-env:(\d+\.\d+\.\d+)", text)) == {__version__}
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    [built] = re.findall(r"^ARG RAY=(.*)$", dockerfile, re.MULTILINE)
    [cluster] = [each["spec"] for each in render(CLUSTER / "base") if each["kind"] == "RayCluster"]
    assert cluster["rayVersion"] == built
    [wanted] = set(re.findall(r'"ray\[.*?\](.*?)"', (CLUSTER.parent / "pyproject.toml").read_text()))
    assert built in SpecifierSet(wanted)


KUBECTL = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  create*) test -n "$REFUSED" && exit 1; echo rayjob.ray.io/acoustic-env-reannotate-abc ;;
  *jobDeploymentStatus*) test "$(wc -l < "$CALLS")" -gt 2 && echo "$DEPLOYMENT" || echo Running ;;
  *jobStatus*) echo "$STATUS" ;;
  *message*) echo "$MESSAGE" ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "deployment", "message", "code"),
    [
        ("SUCCEEDED", "Complete", "Job finished successfully.", 0),
        ("FAILED", "Failed", "Job entrypoint command failed with exit code 3, last available logs", 3),
        ("FAILED", "Failed", "Job entrypoint command failed with exit code 1, last available logs", 1),
        ("RUNNING", "Failed", "The RayJob has passed the activeDeadlineSeconds", 1),
    ],
)
def test_the_schedule_ends_with_the_exit_code_of_its_run(
    tmp_path: Path, status: str, deployment: str, message: str, code: int
) -> None:
    [config] = [each for each in render(CLUSTER / "base") if each["kind"] == "ConfigMap"]
    script = tmp_path / "create.sh"
    script.write_text(config["data"]["create.sh"].replace("sleep 30", "sleep 0"))
    fake = tmp_path / "kubectl"
    fake.write_text(KUBECTL)
    fake.chmod(0o755)
    calls = tmp_path / "calls"
    state = {"CALLS": str(calls), "STATUS": status, "DEPLOYMENT": deployment, "MESSAGE": message, "REFUSED": ""}
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **state}
    done = subprocess.run(["/bin/sh", "-e", script], env=environment, timeout=20, check=False)
    assert done.returncode == code
    assert calls.read_text().splitlines()[0] == "create -f /jobs/reannotate.yaml -o name"
    refused = subprocess.run(["/bin/sh", "-e", script], env=environment | {"REFUSED": "1"}, timeout=20, check=False)
    assert refused.returncode == 1
