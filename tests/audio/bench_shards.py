"""Bytes fetched for clips in shards on an S3 server, over the bytes of their audio files.

    python -m tests.audio.bench_shards [--clips 600] [--shards 3] [--workers 4] [--task-clips 64]

Noise of 10 s as FLAC in tar shards (each with a .json beside it) and in Parquet files of row groups of 100, listed by
`clips from-tar` and `from-parquet`; tasks go round the workers, each a process of its own, which decodes them as the
pipeline does. "without": the list has no byte_offset and byte_size, as lists made earlier.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from acoustic_env.clips.readers.parquet import read_parquet
from acoustic_env.clips.readers.tar import read_tar
from acoustic_env.clips.table import PLACE_SCHEMA
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.pipeline.pending import cut_tasks
from acoustic_env.pipeline.reading import decode_clips
from acoustic_env.pipeline.task import ASSUMED_S, unpack
from tests.pipeline.tasks import pending
from tests.s3 import S3Server, serve

ROW_GROUP = 100


def flac(seed: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).normal(0, 0.1, 160_000), 16_000, format="FLAC")
    return file.getvalue()


def upload(server: S3Server, clips: int, shards: int) -> int:
    """Put the shards of both kinds into the bucket; return the bytes of audio of one kind."""
    bucket, total = open_filesystem(f"s3://{server.bucket}"), 0
    for shard, numbers in enumerate(np.array_split(np.arange(clips), shards)):
        sounds = [flac(int(number)) for number in numbers]
        total += sum(map(len, sounds))
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for number, sound in zip(numbers, sounds, strict=True):
                for suffix, data in (("flac", sound), ("json", b'{"label": "noise", "site": "here"}')):
                    info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        bucket.write(f"{shard}.tar", tar.getvalue())
        table = pa.table({"audio": [{"bytes": sound, "path": ""} for sound in sounds], "site": ["here"] * len(sounds)})
        parquet = io.BytesIO()
        pq.write_table(table, parquet, row_group_size=ROW_GROUP)
        bucket.write(f"{shard}.parquet", parquet.getvalue())
    return total


def measure(server: S3Server, clips: pa.Table, workers: int, task_clips: int) -> tuple[int, int, float]:
    """Decode the list in that many processes; return bytes, requests and seconds."""
    rows = pending(clips)
    tasks = [task.clips for task in unpack(cut_tasks(rows, task_clips * ASSUMED_S))]
    with tempfile.TemporaryDirectory() as folder:
        for worker in range(workers):
            own = tasks[worker::workers] or [rows.slice(0, 0)]
            for number, task in enumerate(own):
                pq.write_table(task, Path(folder, f"{worker}-{number}.parquet"))
        server.requests.clear()
        server.sent = 0
        started = time.perf_counter()
        command = [sys.executable, "-m", "tests.audio.bench_shards", "--work", folder, "--worker"]
        running = [subprocess.Popen([*command, str(worker)]) for worker in range(workers)]
        assert [process.wait() for process in running] == [0] * workers
        return server.sent, len(server.requests), time.perf_counter() - started


def work(folder: str, worker: int) -> None:
    for path in sorted(Path(folder).glob(f"{worker}-*.parquet")):
        assert not any(clip.error for clip in decode_clips(pq.read_table(path), [16_000]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--task-clips", type=int, default=64)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.worker)
        return
    with serve() as server:
        server.reset()
        open_filesystem(f"s3://{server.bucket}").filesystem.mkdir(server.bucket)  # type: ignore[attr-defined]
        audio = upload(server, given.clips, given.shards)
        for kind, read in (
            ("tar", lambda url: read_tar([url])),
            ("parquet", lambda url: read_parquet([url], label_column=None)),
        ):
            clips = read(f"s3://{server.bucket}/*.{kind}")
            for name, listed in (("without", clips.drop_columns(PLACE_SCHEMA.names)), ("with", clips)):
                sent, requests, seconds = measure(server, listed, given.workers, given.task_clips)
                print(
                    f"{kind:<8} {name:<8} places: {sent / audio:6.3f} bytes fetched a byte of audio, "
                    f"{requests:>5,} requests for {given.clips:,} clips, {seconds:5.1f} s"
                )


if __name__ == "__main__":
    main()
