"""What a trained classifier takes, and what load a server of it bears: `python -m tests.web.bench_load [--bundle B]`.

Without a classifier of the user's, both measure a small one that needs no weights: logistic regression on MFCC
statistics of generated sounds of 5 s. Clients and server share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import soundfile

from acoustic_env.audio.prepare import prepare
from acoustic_env.clips.table import clip_table
from acoustic_env.config import Recipe, from_mapping
from acoustic_env.errors import AcousticEnvError
from acoustic_env.features.block import to_table
from acoustic_env.models import learn
from acoustic_env.models.predictor import Predictor
from acoustic_env.pipeline.cluster import THREAD_VARIABLES
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.web.classify import PREDICT
from tests.bench.stages import one_thread

SMALL: Final = "MFCC statistics of generated sounds, logistic regression"
CLIP_S: Final = 5.0
RATE: Final = 48_000
PAIRS: Final = 3  # of `import torch` and `predict FILE`, in turns
WINDOWS: Final = 16
CLIENTS: Final = (1, 2, 4, 8)
REQUESTS: Final = 80  # for each number of clients
WARM_UP: Final = 16
SERVERS: Final[dict[str, tuple[str, ...]]] = {
    "one process": (),
    "Ray Serve, 1 replica": ("--ray", "--set", "replicas=1"),
    "Ray Serve, 2 replicas": ("--ray", "--set", "replicas=2"),
}
SOUNDS: Final = 20  # of each class
_RECIPE: Final = {
    "name": "bench",
    "task": "binary",
    "classes": {"noise": {"labels": ["noise"]}, "tone": {"labels": ["tone"]}},
    "signals": ["raw"],
    "blocks": {"mfcc": {}},
    "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
    "model": {"kind": "logistic"},
}
_BOUNDARY: Final = "bench"

Log = Callable[[str], None]


@dataclass(frozen=True)
class PredictResult:
    """A classifier without a cluster."""

    classifier: str  # what was measured
    import_torch_s: float  # seconds of a process that imports torch
    command_s: float  # seconds of `predict FILE` with a file of 5 s
    ratio: float  # median over pairs of the second over the first
    window_s: float  # seconds of audio in a window
    alone_s: float  # seconds for a window by itself
    together_s: float  # seconds for each window of a recording


@dataclass(frozen=True)
class LoadResult:
    """A server under the load of so many clients, each sending a file of 5 s again and again."""

    server: str  # of `SERVERS`
    clients: int  # at the same time
    requests_per_s: float  # answered
    p50_s: float  # quantiles of the seconds to the end of an answer
    p95_s: float
    p99_s: float


@contextmanager
def classifier(bundle: str | None) -> Iterator[str]:
    """Yield the place of a bundle: the given one, or a small one for the length of the block."""
    if bundle is not None:
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        yield _write_small(Path(folder))


def _write_small(folder: Path) -> str:
    work = block_work(BlockSpec("mfcc", "fast", 0, ("raw",)))
    block, rng = work.spec.make(), np.random.default_rng(0)
    rate = work.sample_rate
    noises = rng.normal(size=(SOUNDS, round(CLIP_S * rate)))
    tones = np.sin(2 * np.pi * rng.uniform(300, 3000, (SOUNDS, 1)) * np.arange(noises.shape[1]) / rate)
    waves = prepare(np.concatenate([noises, tones]).astype(np.float32), rate, "fast", ["raw"])["raw"]
    labels = ["noise"] * SOUNDS + ["tone"] * SOUNDS
    rows = [
        {"clip_id": str(i), "uri": f"{i}.wav", "labels": [label], "group": str(i), "start_s": 0.0, "end_s": CLIP_S}
        for i, label in enumerate(labels)
    ]
    store = FeatureStore(f"{folder}/store")
    ids = [str(row["clip_id"]) for row in rows]
    store.write_part(to_table(work.schemas["raw"], ids, ["raw"] * len(ids), block.compute(waves)))
    recipe = from_mapping(Recipe, _RECIPE, "recipe of the benchmark")
    study = learn.prepare(clip_table(rows), store, recipe, log=lambda _: None)
    learn.train(study, lambda _: None)[0].save(f"{folder}/bundle")
    return f"{folder}/bundle"


def measure_predict(bundle: str | None, log: Log) -> PredictResult:
    """Time `predict FILE` beside importing torch, then windows in this process; all on one thread.

    Raises:
        UsageError: the bundle cannot be used.
        AcousticEnvError: the command failed; quotes its last lines.
    """
    log("predict")
    with classifier(bundle) as place, tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder, one_thread():
        predictor = Predictor.load(place)
        file = _write_sound(folder)
        command = ["-m", "acoustic_env.cli", "predict", "--bundle", place, "--out", f"{folder}/out.parquet", file]
        pairs = [(_process_s("-c", "import torch"), _process_s(*command)) for _ in range(PAIRS)]
        torch_s, command_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        samples = round(predictor.window_s * RATE)
        noise = np.random.default_rng(0).normal(scale=0.1, size=(WINDOWS, samples)).astype(np.float32)
        wall_seconds(lambda: predictor.predict(noise[0], sample_rate=RATE))  # the first one also allocates
        alone = [wall_seconds(partial(predictor.predict, wave, sample_rate=RATE)) for wave in noise]
        together = wall_seconds(lambda: list(predictor.predict_windows(noise.ravel(), sample_rate=RATE)))
    ratio = statistics.median(second / first for first, second in pairs)
    return PredictResult(
        bundle or SMALL, torch_s, command_s, ratio, predictor.window_s, statistics.median(alone), together / WINDOWS
    )


def measure_serve(bundle: str | None, log: Log) -> tuple[LoadResult, ...]:
    """Send requests to `acoustic-env serve`, in one process and on Ray Serve where it can run; the log says why not.

    Raises:
        AcousticEnvError: the server of one process failed; quotes its last lines.
    """
    found: list[LoadResult] = []
    with classifier(bundle) as place, tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        body = _form(Path(_write_sound(folder)).read_bytes())
        for name, options in SERVERS.items():
            log(f"serve, {name}")
            try:
                with _server("--bundle", place, *options) as address:
                    _send(address, body, WARM_UP)
                    found += [_load(name, address, body, clients) for clients in CLIENTS]
            except AcousticEnvError as error:
                if not options:
                    raise
                log(f"left out: {error}")
    return tuple(found)


def _load(server: str, address: str, body: bytes, clients: int) -> LoadResult:
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        jobs = [threads.submit(_send, address, body, REQUESTS // clients) for _ in range(clients)]
        taken = [seconds for job in jobs for seconds in job.result()]
    rate = len(taken) / (time.perf_counter() - begun)
    p50, p95, p99 = np.quantile(taken, [0.5, 0.95, 0.99]).tolist()
    return LoadResult(server, clients, rate, p50, p95, p99)


def _send(address: str, body: bytes, requests: int) -> list[float]:
    """Send requests one after the other; return the seconds of each."""
    return [wall_seconds(lambda: _post(address, body)) for _ in range(requests)]


def _post(address: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("POST", PREDICT, body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    if reply.status != HTTPStatus.OK:
        raise AcousticEnvError(f"bench: the server answered {reply.status}: {text.decode(errors='replace')}")


@contextmanager
def _server(*options: str) -> Iterator[str]:
    """Run `acoustic-env serve`; yield host and port."""
    command = [sys.executable, "-m", "acoustic_env.cli", "serve", "--set", "per_minute=1000000", *options]
    # A session of its own: Ctrl-C in the terminal reaches it once, from here.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line.strip())
                if found := re.search(r"page: (\S+)", line):
                    yield urlsplit(found[1]).netloc
                    return
            raise AcousticEnvError(lines[-1] if lines else "it ended without a message")
        finally:
            process.terminate()


def _write_sound(folder: str) -> str:
    """Write a file of noise."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=round(CLIP_S * RATE))
    soundfile.write(f"{folder}/noise.ogg", noise, RATE)
    return f"{folder}/noise.ogg"


def _form(file: bytes) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="noise.ogg"\r\n\r\n'
    return head.encode() + file + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _process_s(*arguments: str) -> float:
    one = dict.fromkeys(THREAD_VARIABLES, "1")
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **one})
    if done.returncode != 0:
        raise AcousticEnvError("bench: " + "\n".join(done.stderr.strip().splitlines()[-5:]))
    return time.perf_counter() - started


def wall_seconds(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle")
    parser.add_argument("--stages", default="predict,serve")
    options = parser.parse_args()

    def log(text: str) -> None:
        print(text, file=sys.stderr)

    if "predict" in options.stages:
        found = measure_predict(options.bundle, log)
        print(f"import torch {found.import_torch_s:.2f} s, predict FILE {found.command_s:.2f} s: {found.ratio:.2f}")
        print(
            f"a window of {found.window_s:g} s: {1e3 * found.alone_s:.1f} ms alone, {1e3 * found.together_s:.1f} in all"
        )
    if "serve" in options.stages:
        for load in measure_serve(options.bundle, log):
            quantiles = "".join(f"{1e3 * seconds:>9.0f}" for seconds in (load.p50_s, load.p95_s, load.p99_s))
            print(f"{load.server:<24}{load.clients:>4} clients {load.requests_per_s:>8.1f} requests/s; ms {quantiles}")


if __name__ == "__main__":
    main()
