"""Dashboard and alerts: they read metrics that exist, and Prometheus finds data for each panel during a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from acoustic_env.pipeline import metrics
from tests.cluster.kustomize import CLUSTER

METRICS = [metric for metric in vars(metrics).values() if isinstance(metric, metrics.Metric)]
EXPORTED = {f"ray_{metric.name}" + ("_total" if metric.kind == "Counter" else ""): metric for metric in METRICS}
LABELS_OF_RAY = {"NodeAddress"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def panels() -> dict[str, str]:
    """Title -> expression."""
    dashboard = json.loads((CLUSTER / "dashboard.json").read_text())
    return {panel["title"]: target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}


def alerts() -> dict[str, str]:
    """Name -> expression."""
    groups = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_every_expression_reads_metrics_and_labels_that_the_program_exports() -> None:
    for name, expression in (panels() | alerts()).items():
        read = set(re.findall(r"\bray_\w+", expression))
        assert read, name
        assert read <= set(EXPORTED), name
        tags = {EXPORTED[metric].tag for metric in read} | LABELS_OF_RAY
        labels = set(re.findall(r"by \((\w+)\)|\{(\w+)", expression))
        assert {one or other for one, other in labels} <= tags, name


def test_every_metric_is_on_the_dashboard() -> None:
    assert set(EXPORTED) == {name for expression in panels().values() for name in re.findall(r"\bray_\w+", expression)}


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


@needs_promtool
def test_alerts_fire_on_what_they_are_for_and_on_nothing_else(tmp_path: Path) -> None:
    clips = "ray_acoustic_env_clips_total"
    cases = [
        ("AcousticEnvStalled", [series("ray_acoustic_env_pending_clips", "500x60", WorkerId="a")], 1),
        ("AcousticEnvStalled", [series("ray_acoustic_env_pending_clips", "500-1x60", WorkerId="a")], 0),
        ("AcousticEnvStalled", [series("ray_acoustic_env_pending_clips", "0x60", WorkerId="a")], 0),
        ("AcousticEnvErrorRate", [series(clips, "0+90x60", outcome="done"), series(clips, "0+10x60", outcome="x")], 1),
        ("AcousticEnvErrorRate", [series(clips, "0+99x60", outcome="done"), series(clips, "0+1x60", outcome="x")], 0),
        ("AcousticEnvLeaseLost", [series("ray_acoustic_env_leases_lost_total", "_x30 1x30", WorkerId="a")], 1),
        ("AcousticEnvLeaseLost", [series("ray_acoustic_env_leases_lost_total", "1x200", WorkerId="a")], 0),
    ]
    tests = []
    for number, (alert, given, fired) in enumerate(cases):
        at = "2h" if alert == "AcousticEnvLeaseLost" and not fired else "55m"
        query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
        wanted = [{"labels": "{}", "value": fired}]
        test = {"expr": query, "eval_time": at, "exp_samples": wanted}
        tests.append({"name": f"{number}", "interval": "1m", "input_series": given, "promql_expr_test": [test]})
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(CLUSTER / "alerts.yaml")], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def query(port: int, expression: str) -> list[Any]:
    """The instant vector of an expression; empty while Prometheus is not up."""
    text = urllib.parse.urlencode({"query": expression.replace("$__rate_interval", "1m")})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{text}", timeout=5) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_prometheus
def test_prometheus_finds_data_for_every_panel_during_a_run(tmp_path: Path) -> None:
    host, ray_port, port = "127.0.0.1", free_port(), free_port()
    job = {"job_name": "ray", "static_configs": [{"targets": [f"{host}:{ray_port}"]}]}
    settings = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": [job]}
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({**settings, "rule_files": [str(CLUSTER / "alerts.yaml")]}))
    commands = [
        [sys.executable, "-m", "tests.cluster.monitored_run", str(ray_port), str(tmp_path)],
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path}",
            f"--web.listen-address={host}:{port}",
        ],
    ]
    environment = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
    with (tmp_path / "log").open("w") as log:
        started = [
            subprocess.Popen(command, cwd=CLUSTER.parent, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
    try:
        waiting = panels() | {"alert": 'ALERTS{alertname="AcousticEnvLeaseLost"}'}
        until = time.monotonic() + 240
        while waiting and time.monotonic() < until and started[0].poll() is None:
            time.sleep(1)
            waiting = {title: each for title, each in waiting.items() if not query(port, each)}
        assert not waiting, (tmp_path / "log").read_text()[-3000:]
        outcomes = {each["metric"]["outcome"] for each in query(port, panels()["Clips by outcome"])}
        assert outcomes == {"done", "not_audio"}
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
