"""Memory and time of `predict`, `audit rank` and `reannotate` by the number of clips, on a generated store.

    python -m tests.audit.bench_scale [--clips 125000,250000,500000] [--labels 527] [--commands predict,rank,reannotate]

Clips have 128 floats of one block, in parts of 4,096, and one to three of the labels, which the floats tell apart. Each
command runs in a process of its own; the peak is that of its resident memory, the system's cache of files aside. The
bundle is `logistic`, trained on 5,000 clips; the scorers of the audit are those of recipe `audioset-527`. `reannotate`
takes in all clips after it took in half of them. Needs about 6 GB of disk for 500,000 clips and 527 labels.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from acoustic_env.clips.select import class_targets
from acoustic_env.clips.table import CLIP_SCHEMA, write_clips
from acoustic_env.features.block import Column, table_schema, to_table
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle, keys
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.matrix import load_matrix
from acoustic_env.models.data.preprocessing import Preprocessor
from acoustic_env.models.estimators.fitting import Ensemble, fit, make_estimator
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.store.feature_store import FeatureStore
from tests.models.conftest import Generated

SIZE, PART, TRAINED_ON = 128, 4_096, 5_000


class Embedding(Generated):
    """A block of one vector."""

    def __init__(self) -> None:
        super().__init__("generated", 0)
        self.columns = (Column("vector", pa.list_(pa.float32(), SIZE), "1", "generated"),)


def generate(folder: Path, clips: int, labels: int) -> None:
    """Write a store of so many clips, their list, and a recipe."""
    store, schema, random = FeatureStore(f"{folder}/store"), table_schema(Embedding(), {}), np.random.default_rng(0)
    centers, names, lists = random.normal(size=(labels, SIZE)), [f"label{k:03d}" for k in range(labels)], []
    for start in range(0, clips, PART):
        ids = [f"clip{number:07d}" for number in range(start, min(start + PART, clips))]
        own = random.integers(labels, size=(len(ids), 3))
        own[random.random(own.shape) < 0.5] = -1
        own[:, 0] = random.integers(labels, size=len(ids))
        vectors = np.where((own >= 0)[:, :, None], centers[own], 0).sum(axis=1) + random.normal(size=(len(ids), SIZE))
        store.write_part(to_table(schema, ids, ["raw"] * len(ids), {"vector": vectors.astype(np.float32)}))
        rows = [
            {"clip_id": name, "uri": f"{name}.wav", "group": name, "labels": [names[k] for k in sorted({*of} - {-1})]}
            for name, of in zip(ids, own.tolist(), strict=True)
        ]
        lists.append(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA))
    table = pa.concat_tables(lists)
    write_clips(table, f"{folder}/clips.parquet")
    recipe = {
        "task": "multilabel",
        "signals": ["raw"],
        "blocks": {"generated": {}},
        "model": {"kind": "logistic", "penalty": 0.03},
    }
    recipe |= {"split": {"folds": 10, "validation_folds": [9], "test_folds": []}}
    recipe |= {"audit": {"scorers": ["logistic", "neighbors"]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def make_bundle(folder: Path) -> None:
    """Save a bundle of the first clips, without the evaluation of `train`, which takes its time for 527 labels."""
    recipe = load_recipe(f"{folder}/recipe.yaml")
    clips = pq.read_table(folder / "clips.parquet").slice(0, TRAINED_ON)
    targets = class_targets(clips, recipe)
    matrix = load_matrix(FeatureStore(f"{folder}/store"), targets.clip_ids, ["generated"], ["raw"])
    preprocessor = Preprocessor.of(matrix.columns, recipe.reduction).fit(matrix.values)
    examples = Examples(preprocessor.transform(matrix.values), targets.y, np.arange(TRAINED_ON))
    classifier = Ensemble([fit(make_estimator(recipe.model, 0), examples)], len(targets.classes))
    calibrator = Calibrator(recipe.task).fit(classifier.predict_proba(examples.x), targets.y)
    seen = np.sort(keys(targets.clip_ids))
    known = (matrix.fingerprints, {}, "", seen, np.stack([seen, seen], axis=1))
    Bundle(recipe, targets.classes, preprocessor, classifier, calibrator, *known).save(folder / "bundle")


def run(*command: str | Path) -> dict[str, float]:
    """Run a command of acoustic-env; return its seconds, CPU seconds and peak memory in bytes."""
    started = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere:
        process = subprocess.Popen([sys.executable, "-m", "acoustic_env.cli", *command], stdout=nowhere)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {command}")
    seconds, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    return {"seconds": seconds, "cpu": cpu, "peak": used.ru_maxrss * 1024}


def measure(folder: Path, command: str) -> dict[str, float]:
    store = ["--store", folder / "store"]
    inputs = ["--clips", folder / "clips.parquet", *store, "--out", folder / "out.parquet"]
    if command == "reannotate":
        make_bundle(folder)
        clips = pq.read_table(folder / "clips.parquet")
        write_clips(clips.slice(0, clips.num_rows // 2), f"{folder}/half.parquet")
        found, version = {}, folder / "labels" / "v0002" / "labels.parquet"
        for name in ("half", "clips"):
            bundle = ["--bundle", folder / "bundle", "--versions", folder / "labels"]
            found = run("reannotate", "--clips", folder / f"{name}.parquet", *store, *bundle)
        return found | {"table": version.stat().st_size}
    if command == "predict":
        make_bundle(folder)
        found = run("predict", *inputs, "--bundle", folder / "bundle")
    else:
        found = run("audit", "rank", *inputs, "--recipe", folder / "recipe.yaml")
    found["table"] = (folder / "out.parquet").stat().st_size
    (folder / "out.parquet").unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", default="125000,250000,500000")
    parser.add_argument("--labels", type=int, default=527)
    parser.add_argument("--commands", default="predict,rank,reannotate")
    parser.add_argument("--folder")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    before: dict[str, dict[str, float]] = {}
    for clips in map(int, options.clips.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            generate(Path(name), clips, options.labels)
            for command in options.commands.split(","):
                found = measure(Path(name), command)
                last = before.get(command, found)
                print(
                    f"{command:<10} {clips:>9,} clips x {options.labels} labels: "
                    f"peak {found['peak'] / 2**20:>6,.0f} MiB "
                    f"(x {found['peak'] / last['peak']:.2f}), {found['seconds']:>6,.0f} s, CPU {found['cpu']:>6,.0f} s "
                    f"(x {found['cpu'] / last['cpu']:.2f}), table {found['table'] / 2**20:,.0f} MiB",
                    flush=True,
                )
                before[command] = found


if __name__ == "__main__":
    main()
