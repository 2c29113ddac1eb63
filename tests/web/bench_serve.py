"""Load of `acoustic-env serve` on this machine: python -m tests.web.bench_serve --bundle BUNDLE FILE.

Starts the server in a process of its own, sends the same file again and again from a number of clients at the same
time, and prints requests/s and quantiles of the seconds to the end of an answer.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tests.web.fake import form


def seconds_of_each(address: str, body: bytes, kind: str, requests: int) -> list[float]:
    """Send requests one after the other."""
    taken = []
    for _ in range(requests):
        begun = time.perf_counter()
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/api/v1/predict", body, {"Content-Type": kind})
        reply = connection.getresponse()
        data = reply.read()
        assert reply.status == 200, data
        connection.close()
        taken.append(time.perf_counter() - begun)
    return taken


def main() -> None:
    """Measure with 1, 2, 4 and 8 clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--requests", type=int, default=200, help="For each number of clients.")
    arguments = parser.parse_args()
    body, kind = form(arguments.file.read_bytes())
    command = ["serve", "--bundle", arguments.bundle, "--per-minute", "1000000", "--waiting", "100"]
    with subprocess.Popen(
        [sys.executable, "-m", "acoustic_env.cli", *command], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            url = next(found[1] for line in server.stderr if (found := re.search(r"page: (\S+)", line)))
            address = urlsplit(url).netloc
            seconds_of_each(address, body, kind, 10)
            print("| clients | requests/s | p50 | p95 | p99 |\n|---|---|---|---|---|")
            for clients in (1, 2, 4, 8):
                begun, each = time.perf_counter(), arguments.requests // clients
                with ThreadPoolExecutor(clients) as threads:
                    jobs = [threads.submit(seconds_of_each, address, body, kind, each) for _ in range(clients)]
                taken = np.concatenate([job.result() for job in jobs])
                rate = taken.size / (time.perf_counter() - begun)
                p50, p95, p99 = 1000 * np.quantile(taken, [0.5, 0.95, 0.99])
                print(f"| {clients} | {rate:.1f} | {p50:.0f} ms | {p95:.0f} ms | {p99:.0f} ms |", flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
