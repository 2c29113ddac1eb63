"""The application on Ray Serve: no request is lost with a replica, and what cannot start says so at once."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import yaml
from ray.serve.schema import ServeDeploySchema

from acoustic_env import Predictor
from acoustic_env.cli import main
from acoustic_env.config import from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.options import RayServeSettings
from acoustic_env.web.classify import PREDICT
from tests.cluster.test_manifests import validate
from tests.models.conftest import write_sounds
from tests.web.fake import form, wav

ROOT = Path(__file__).parents[2]
JOB = """
import ray, runpy
ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="error", log_to_driver=False)
print(ray.nodes()[0]["MetricsExportPort"], flush=True)
runpy.run_path("jobs/serve.py", run_name="__main__")
"""
OUT_OF_REACH = """
import sys
import fsspec, ray
from acoustic_env.cli import main
ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
fsspec.filesystem("memory").put(sys.argv[1], "/bundle", recursive=True)  # of this process alone
sys.exit(main(["serve", "--bundle", "memory://bundle", "--ray"]))
"""
RATE, CLIENTS, REQUESTS = 16_000, 8, 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tells noises from tones of two seconds."""
    return write_sounds(tmp_path_factory.mktemp("serve") / "sounds") / "bundle"


@contextmanager
def job(*options: str) -> Iterator[tuple[str, int, psutil.Process]]:
    """`jobs/serve.py` on three CPUs of a Ray of its own: address, port of the node's metrics, process."""
    command = [sys.executable, "-c", JOB, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            metrics = int(process.stdout.readline())
            address = next(found[1] for line in process.stderr if (found := re.search(r"page: http://(\S+)/", line)))
            yield address, metrics, psutil.Process(process.pid)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def classify(address: str, body: bytes, kind: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("POST", PREDICT, body, {"Content-Type": kind})
    reply = connection.getresponse()
    answer = reply.status, json.loads(reply.read())
    connection.close()
    return answer


def replicas(driver: psutil.Process, name: str) -> list[psutil.Process]:
    return [p for p in driver.children(recursive=True) if f":{name}" in (p.cmdline() or [""])[0]]


def batches(port: int) -> tuple[float, float]:
    """How many the replicas of the classifier computed, and of these, how many of one window."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = re.findall(r'^ray_serve_actual_batch_size_(?:bucket\{.*le="(1.0)"|(count)).*\} (\S+)$', text, re.MULTILINE)
    return sum(float(n) for _, count, n in found if count), sum(float(n) for one, _, n in found if one)


@pytest.mark.slow
def test_a_replica_killed_under_load_loses_no_request_and_numbers_are_those_of_the_process(bundle: Path) -> None:
    rng = np.random.default_rng(16)
    sounds = [rng.normal(scale=0.1, size=RATE * seconds).astype(np.float32) for seconds in (5, 2, 3, 4)]
    forms = [form(wav(sound, kind="FLAC")) for sound in sounds]
    with (
        job("--bundle", str(bundle), "--set", "replicas=2", "--set", "per_minute=10000") as (address, metrics, driver),
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        sent: list[Future[tuple[int, Any]]] = []
        for number in range(REQUESTS):
            sent.append(threads.submit(classify, address, *forms[number % 4]))
        sent[REQUESTS // 4].result()
        first, second = replicas(driver, "Model")
        first.kill()
        answers = [future.result() for future in sent]
        assert not first.is_running()
        assert second.is_running()
        end = time.monotonic() + 200  # Ray collects metrics every few seconds
        while batches(metrics)[0] < REQUESTS / 4 and time.monotonic() < end:
            time.sleep(0.5)
        count, alone = batches(metrics)
    predictor = Predictor.load(bundle)
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        sound = soundfile.read(io.BytesIO(wav(sounds[number % 4], kind="FLAC")), dtype="float32")[0]
        windows = list(predictor.predict_windows(sound, sample_rate=RATE))
        assert [w["start_s"] for w in answer["windows"]] == [window.start_s for window in windows]
        own = [predictor.pool(windows), *windows]
        for got, expected in zip([answer["recording"], *answer["windows"]], own, strict=True):
            assert got["posterior"] == pytest.approx(expected.posterior, abs=1e-6)
            assert got["unlike"] == expected.unlike
    assert count > alone > 0


def test_the_options_of_replicas_need_ray(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--bundle", "bundle", "--set", "replicas=2"]) == 2
    assert "add --ray" in capsys.readouterr().err


def test_without_ray_serve_the_command_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metadata.json").touch()
    monkeypatch.delattr("ray.serve", raising=False)
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delitem(sys.modules, "acoustic_env.web.serve", raising=False)
    assert main(["serve", "--bundle", str(tmp_path), "--ray"]) == 2
    assert "pip install 'acoustic-env[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle": "/nowhere"}, "/nowhere: "),
        ({"bundel": "/nowhere"}, "unknown setting 'bundel'"),
        ({"bundle": "/nowhere", "replicas": 0}, "replicas"),
    ],
)
def test_a_wrong_serve_config_is_refused_when_the_application_is_built(arguments: dict[str, Any], message: str) -> None:
    from acoustic_env.web.serve import application

    with pytest.raises(UsageError, match=message):
        application(arguments)


@pytest.mark.parametrize("options", [[], ["--ray"]])
def test_a_file_that_is_no_bundle_is_refused_before_anything_is_served(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundle.zip").touch()
    assert main(["serve", "--bundle", f"{tmp_path}/bundle.zip", *options]) == 2
    assert f"{tmp_path}/bundle.zip: no bundle" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundle_that_replicas_cannot_read_ends_the_command_with_their_reason(bundle: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_REACH, str(bundle)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    last = done.stderr[done.stderr.index("acoustic-env: ") :]
    assert done.returncode == 2, done.stderr
    assert "the application does not start on Ray: " in last
    assert "memory://bundle: no bundle" in last


# ---- cluster/rayservice.yaml


def service() -> Any:
    return yaml.safe_load((ROOT / "cluster" / "rayservice.yaml").read_text())


def test_the_rayservice_fits_kuberays_definition(test_data: Path) -> None:
    validate(service(), test_data)


def test_the_rayservice_deploys_the_application_with_replicas_that_its_pods_hold() -> None:
    spec = service()["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    [app] = config.applications
    assert app.import_path == "acoustic_env.web.serve:application"
    settings = from_mapping(RayServeSettings, app.args, "args")
    [workers] = spec["rayClusterConfig"]["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert settings.replicas + settings.page_replicas <= cpus * workers["minReplicas"]
    assert settings.port == config.http_options.port
    assert spec["rayClusterConfig"]["rayVersion"] in (ROOT / "cluster" / "Dockerfile").read_text()


def test_no_pod_of_the_rayservice_has_rights_it_does_not_need() -> None:
    cluster = service()["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
