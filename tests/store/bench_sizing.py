"""What a clip costs beside CPU time: bytes in the store, requests for its audio, for its part and for planning.

    python -m tests.store.bench_sizing [--clips 256]

Real windows of 10 s (ACOUSTIC_ENV_TEST_DATA; generated scenes without it), each a FLAC object on an S3 server, go
through the stages of the pipeline in this process, and as one part of each version into a store on that server.
Networks run with seeded weights, which change no size. Parts are listed a thousand a request.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter

import numpy as np
import pyarrow as pa
import soundfile

from acoustic_env.audio.fetch import open_source
from acoustic_env.audio.prepare import decode_and_resample
from acoustic_env.clips.listed import Listed
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.books import find_missing
from acoustic_env.pipeline.compute import Compute, ComputeSettings
from acoustic_env.pipeline.sink import Write
from acoustic_env.pipeline.task import Task
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.bench.clips import bench_clips
from tests.pipeline.tasks import pending
from tests.s3 import S3Server, serve
from tests.store.tables import begin

RATE = 16_000
TASK_CLIPS = 64


def upload(server: S3Server, clips: int) -> tuple[pa.Table, int]:
    """Put each window into the bucket; return their list and the bytes of audio."""
    bucket, total = open_filesystem(f"s3://{server.bucket}"), 0
    with bench_clips(clips) as material:
        listed = material.clip_list(clips)
    for row in listed.to_pylist():
        with open_source(row["uri"]) as source:
            wave = decode_and_resample(source, row["start_s"], row["end_s"], row["uri"], [RATE])[RATE]
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format="FLAC")
        bucket.write(f"audio/{row['clip_id']}.flac", file.getvalue())
        total += len(file.getvalue())
    uris = [f"s3://{server.bucket}/audio/{clip}.flac" for clip in listed["clip_id"].to_pylist()]
    listed = listed.set_column(listed.schema.get_field_index("uri"), "uri", pa.array(uris))
    for name in ("start_s", "end_s"):
        nothing = pa.nulls(len(listed), pa.float64())
        listed = listed.set_column(listed.schema.get_field_index(name), name, nothing)
    return listed, total


def requests(server: S3Server) -> str:
    """The requests since the last call, by method."""
    counts = Counter(method for method, _ in server.requests)
    server.requests.clear()
    return ", ".join(f"{method} {number}" for method, number in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--blocks", default="indices,mps")
    given = parser.parse_args()
    with serve() as server:
        server.reset()
        open_filesystem(f"s3://{server.bucket}").filesystem.mkdir(server.bucket)  # type: ignore[attr-defined]
        clips, audio = upload(server, given.clips)
        blocks = tuple(given.blocks.split(","))
        works = resolve_blocks(ExtractSettings(clips="", store=server.url, blocks=blocks))
        store = FeatureStore(server.url)
        need = np.full(len(clips), sum(work.spec.mask for work in works))
        rows = pending(clips, need)
        compute = Compute(ComputeSettings(tuple(works)))
        compute.check()
        requests(server)
        tasks = [compute(Task(rows.slice(i, TASK_CLIPS))).pack() for i in range(0, len(rows), TASK_CLIPS)]
        print(f"audio: {audio / len(clips):,.0f} bytes a clip; {requests(server)} for {len(clips)} clips")
        with acquire_blocks(server.url, blocks, "bench") as leases:
            begin(server.url, works, leases)
            requests(server)
            done = Write(server.url, leases.tokens, works, "bench")(0, *tasks)
            print(f"write: {requests(server)}; {done.failed} failed, {done.seconds['write']:.2f} s")
        for entry in sorted(store.filesystem.entries("features"), key=lambda each: each.path):
            print(f"part {entry.path.split('/')[1]}: {entry.size / len(clips):,.0f} bytes a clip ({entry.path})")
        requests(server)
        again = find_missing(Listed([clips]), works, FeatureStore(server.url), store.errors())
        print(f"plan: {np.count_nonzero(again.pending)} pending; {requests(server)}")


if __name__ == "__main__":
    main()
