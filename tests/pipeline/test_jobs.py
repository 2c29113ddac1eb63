"""The scripts of `jobs/` as a user runs them: `ray job submit` on a head without CPUs and two workers."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from acoustic_env.clips.scenes import write_scenes
from acoustic_env.clips.table import write_clips
from acoustic_env.store.feature_store import FeatureStore
from tests.pipeline.raylets import ROOT, Machine, environment, join_all

CLIPS, NEW = 48, 16
RECIPE = """\
task: binary
classes: {natural: {labels: [natural]}, urban: {labels: [urban]}}
signals: [raw]
blocks: {placeholder: {}}
split: {folds: 4, validation_folds: [2], test_folds: [3]}
model: {kind: logistic}
"""


def _submit(head: Machine, script: str, *arguments: str) -> str:
    """What `ray job submit` prints, the job's log included; raises CalledProcessError where the job fails."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", "http://127.0.0.1:8265"]
    run = subprocess.run(
        head.inside(*ray, "--working-dir", str(ROOT), "--", sys.executable, script, *arguments),
        env=environment(TMPDIR="/srv"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    print(run.stdout[-3000:])
    run.check_returncode()
    assert "succeeded" in run.stdout
    return run.stdout


@pytest.mark.slow
@pytest.mark.timeout(1700)
def test_a_head_alone_refuses_a_job_and_two_nodes_do_every_one_that_ray_job_submit_gives_them(
    own_machines: list[Machine], tmp_path: Path
) -> None:
    table = write_scenes(tmp_path, CLIPS + NEW, seed=3, flip=0.1, seconds=1.0)
    names = ("first.parquet", "all.parquet", "store", "bundle", "ranked.parquet", "labels")
    first, every, store, bundle, ranked, labels = (str(tmp_path / name) for name in names)
    write_clips(table.slice(0, CLIPS), first)
    write_clips(table, every)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    study = ("--clips", first, "--store", store, "--recipe", str(tmp_path / "recipe.yaml"))
    head, *workers = own_machines
    head.lead("--dashboard-host=127.0.0.1")
    submit = partial(_submit, head)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        submit("jobs/extract_features.py", *study)
    join_all(head, workers)
    submit("jobs/extract_features.py", *study, "--wait-for-nodes", "2")
    with ThreadPoolExecutor() as together:
        rank = together.submit(submit, "jobs/audit_labels.py", *study, "--out", ranked)
        submit("jobs/train_classifier.py", *study, "--out", bundle)
    said = submit(
        "jobs/reannotate.py", "--clips", every, "--store", store, "--bundle", bundle, "--versions", labels, "--json"
    )
    assert "no worker node has joined" in refused.value.output
    assert "failed" in refused.value.output
    rank.result()
    runs = {run["pending"]: run["nodes"] for run in FeatureStore(store).runs() if run["nodes"]}
    assert {pending: sum(done["clips"] for done in nodes.values()) for pending, nodes in runs.items()} == {
        CLIPS: CLIPS,
        NEW: NEW,
    }
    assert len(runs[CLIPS]) == 2
    assert FeatureStore(store).read("placeholder").num_rows == CLIPS + NEW
    assert pq.read_table(ranked).num_rows == 2 * CLIPS
    assert json.loads(next(line for line in said.splitlines() if line.startswith("{")))["version"] == "v0001"
