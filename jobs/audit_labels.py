"""The label audit's ranking for `ray job submit -- python jobs/audit_labels.py --clips ... --store ... --out ...`."""

import sys

from acoustic_env.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", "rank", *sys.argv[1:]]))
