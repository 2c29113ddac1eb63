"""The extraction job for `ray job submit`: the options of `acoustic-env extract`, on the cluster that runs this script.

ray job submit --working-dir . -- python jobs/extract_features.py --clips s3://b/clips.parquet --store s3://b/features
"""

from __future__ import annotations

import sys

from acoustic_env.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
