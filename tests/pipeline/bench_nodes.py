"""Compare the throughput of two nodes of one CPU with that of one node of two, on raylets of this machine.

Each pair of runs extracts the same generated clips with a cheap block; the seconds of the streaming part are compared.

python -m tests.pipeline.bench_nodes [--pairs 3] [--clips 300]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.pipeline.test_extract import write_noise

ALLOWED_RATIO = 0.95

RUN = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract

clips, store, *cpus = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for each in cpus:
    cluster.add_node(num_cpus=int(each))
ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
record = extract(ExtractSettings(clips=clips, store=store, blocks=("indices",)))
print(json.dumps({"clips_per_second": record.clips_per_second, "nodes": record.nodes}), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def clips_per_second(listed: Path, store: Path, *cpus: str) -> float:
    """Run the extraction on nodes of so many CPUs each."""
    command = [sys.executable, "-c", RUN, str(listed), str(store), *cpus]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (record,) = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    print(
        f"nodes of {' and '.join(cpus)} CPUs: {record['clips_per_second']:.2f} clips/s, {record['nodes']}", flush=True
    )
    return float(record["clips_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--clips", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        listed = write_noise(Path(folder) / "audio", options.clips, seconds=10.0)
        ratios = []
        for pair in range(options.pairs):
            two = clips_per_second(listed, Path(folder) / f"two-{pair}", "1", "1")
            ratios.append(two / clips_per_second(listed, Path(folder) / f"one-{pair}", "2"))
    ratio = statistics.median(ratios)
    print(f"ratios {', '.join(f'{one:.3f}' for one in ratios)}; median {ratio:.3f}, at least {ALLOWED_RATIO:g} wanted")
    sys.exit(ratio < ALLOWED_RATIO)


if __name__ == "__main__":
    main()
