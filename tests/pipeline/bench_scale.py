"""A run over a list of any length: clips/s, memory of the driver, parts, and the time to plan the run again.

    python -m tests.pipeline.bench_scale --clips 20000                      the whole run, and its plan made again
    python -m tests.pipeline.bench_scale --clips 5000000 --plan             planning alone

Clips are segments of 1 s of four generated recordings of 1,000 s, each another one; the block is the weightless
`placeholder` of `raw`, the store a folder. `--plan` writes the parts of a store that holds every clip but the last 1 %
(without audio), and plans with --dry-run. Memory is VmHWM of the process that runs `extract`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import soundfile

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store import layout, sources
from acoustic_env.store.feature_store import FeatureStore, new_part
from acoustic_env.store.parts import part_bytes
from acoustic_env.store.schema import sort_by_key
from tests.store.bench_planning import clip_ids

SECONDS = 1000
RECORDINGS = 4
BATCH = 2**17
PART_CLIPS = 100_000


def batches(folder: Path, clips: int) -> Iterator[pa.Table]:
    """The clip list, batch by batch."""
    hop_s = (SECONDS - 1) * RECORDINGS / clips
    for first in range(0, clips, BATCH):
        numbers = np.arange(first, min(clips, first + BATCH))
        ids, starts = clip_ids(first, int(numbers[-1]) + 1), numbers // RECORDINGS * hop_s
        recordings = pc.cast(pa.array(numbers % RECORDINGS), pa.string())
        columns = {
            "clip_id": ids,
            "uri": pc.binary_join_element_wise(f"{folder}/", recordings, ".wav", ""),
            "start_s": starts,
            "end_s": starts + 1.0,
            "labels": [[]] * len(ids),
            "group": ids,
            "fold": pa.nulls(len(ids), pa.int32()),
            "source": pa.nulls(len(ids), pa.string()),
        }
        yield pa.table(columns, schema=CLIP_SCHEMA)


def write_list(folder: Path, clips: int) -> str:
    path = folder / "clips.parquet"
    with pq.ParquetWriter(path, CLIP_SCHEMA, compression="zstd") as writer:
        for table in batches(folder, clips):
            writer.write_table(table)
    return str(path)


def fill(folder: Path, store: FeatureStore, settings: ExtractSettings, listed: int, clips: int) -> None:
    """Write rows of the first so many clips of the list, all alike, and their sources."""
    (work,) = resolve_blocks(settings)
    (fingerprint,) = work.versions()
    version, parts = store.version(work.spec.name, fingerprint), []
    for first in range(0, clips, PART_CLIPS):
        ids = clip_ids(first, min(clips, first + PART_CLIPS))
        nulls = [pa.nulls(len(ids), field.type) for field in list(work.schema)[2:]]
        table = sort_by_key(pa.table([ids, ["raw"] * len(ids), *nulls], schema=work.schema))
        part = new_part(layout.part_path(version.folder, f"{first:012d}"), table)
        path = store.filesystem.folder / part.path  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part_bytes(table))
        parts.append(replace(part, size=path.stat().st_size))
    version.begin(1, parts)
    sources.record(store, sources.admit(store, Listed(batches(folder, listed), limit=clips)), None)


def one(settings: ExtractSettings) -> dict[str, float]:
    """Run or plan in this process."""
    started = time.perf_counter()
    record = extract(settings, log=lambda line: print(line, file=sys.stderr))
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "clips": record.clips,
        "pending": record.pending,
        "finished": record.finished,
        "clips_per_second": round(record.clips_per_second, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "driver_mib": int(peak.split()[1]) // 1024,
        "driver_cpu_s": round(used.ru_utime + used.ru_stime, 1),
    }


def measure(name: str, folder: Path, *, dry_run: bool) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.pipeline.bench_scale",
        "--one",
        str(folder),
        *(["--plan"] if dry_run else []),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"{name:<32} {done.stdout.splitlines()[-1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--plan", action="store_true", help="Plan only.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.one or Path(tempfile.mkdtemp(prefix="acoustic-env-scale-"))
    settings = ExtractSettings(
        clips=str(folder / "clips.parquet"), store=str(folder / "store"), blocks=("placeholder",), signals=("raw",)
    )
    if given.one:
        print(json.dumps(one(settings.replace(dry_run=given.plan))))
        return
    write_list(folder, given.clips)
    store = FeatureStore(settings.store)
    if given.plan:
        measure("planning, empty store", folder, dry_run=True)
        fill(folder, store, settings, given.clips, given.clips - given.clips // 100)
        measure("planning, all but 1 % there", folder, dry_run=True)
    else:
        for number in range(RECORDINGS):
            noise = np.random.default_rng(number).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
            soundfile.write(folder / f"{number}.wav", noise, 16_000)
        measure("run", folder, dry_run=False)
        measure("planning the run again", folder, dry_run=True)
        (fingerprint,) = store.blocks()["placeholder"]
        print(f"{len(store.parts('placeholder', fingerprint)):,} parts")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
