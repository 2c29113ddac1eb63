"""A run on a Ray cluster whose metrics are exported at a port: `python -m tests.cluster.monitored_run PORT FOLDER`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import metrics
from acoustic_env.pipeline.extract import extract
from tests.known_issues.test_exit_three import clips_of_which_fail


def main(port: int, folder: Path) -> None:
    """Extract small lists, one of them with files that are no audio, until the process is ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "metrics_export_port": port, "include_dashboard": False},
    )
    try:
        run(cluster.address, folder)
    finally:
        cluster.shutdown()


def run(address: str, folder: Path) -> None:
    """Extract, again and again."""
    ray.init(address=address, log_to_driver=False)
    clips = clips_of_which_fail(folder / "audio", good=45, bad=3)
    metrics.LEASES_LOST.record(1)  # neither happens in a quiet run
    metrics.RETRIES.record(1, "request")
    for number in range(100):
        settings = ExtractSettings(
            clips=str(clips), store=str(folder / f"store-{number}"), blocks=("placeholder",), max_error_rate=0.5
        )
        extract(settings)
        metrics.PENDING.record(1)
        time.sleep(0.5)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
